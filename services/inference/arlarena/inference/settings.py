"""Settings of the policy server (table `[inference]`). No other module of the service reads settings from environment
variables.

python -m arlarena.inference.settings FILE      check the table in the file and print "ok"
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr

from arlarena.proto.config import ConfigError, exit_on_config_error, load_table, secret_variables, variables_of
from arlarena.proto.http.addresses import is_loopback, service_url
from arlarena.proto.shared_settings import InferenceKeys
from arlarena.proto.versions.hub import local_model, missing_files

ENVIRONMENT_PREFIX = "ARLARENA_INFERENCE_"
# Clients read the policy server's address from this variable. A deployment can set it in the containers of all
# services, so `read_variables` does not refuse it.
ADDRESS_VARIABLE = "ARLARENA_INFERENCE_URL"


class InferenceSettings(InferenceKeys):
    """Table `[inference]`. Settings that end in `_mb` are in units of 2**20 bytes. Settings that end in `_s` are in
    seconds.
    """

    model: Path | None = Field(
        None,
        description="directory in the Hugging Face format, or OWNER/NAME on the Hugging Face Hub; served while "
        "weights_root contains no version of the weights",
    )
    weights_root: Path | None = Field(
        None,
        description="folder with one directory for each pushed version of the weights; the server loads versions from "
        "this folder",
    )
    vllm_arguments: tuple[str, ...] = Field(
        (), description="command-line options that are passed to vLLM, such as --tensor-parallel-size 2"
    )
    vllm_lora: bool = Field(False, description="accept LoRA adapters at /v1/load_lora_adapter (vLLM only)")
    host: str = Field("127.0.0.1", description="address to bind")
    served_model_name: str = Field("policy", min_length=1, description="name of the model in OpenAI's API")
    threads: PositiveInt = Field(
        1, description="torch threads per engine; if there are more threads than free cores, all processes are slower"
    )
    max_slots: PositiveInt = Field(256, description="maximum number of sequences that are decoded at the same time")
    kv_cache_mb: PositiveInt = Field(
        2048,
        description="memory limit of all slots together (a slot contains the keys and values of one running "
        "sequence); with a lower limit, there are fewer slots",
    )
    prefix_cache_mb: NonNegativeInt = Field(256, description="memory limit of the prefix cache; 0 turns the cache off")
    prefill_tokens_per_step: PositiveInt = Field(
        2048, description="maximum number of prompt tokens that are computed between two decoding steps"
    )
    keep_versions: PositiveInt = Field(
        3, description="how many versions stay in weights_root after a new version was uploaded over HTTP"
    )
    admin_token: SecretStr | None = Field(
        None, min_length=16, description="bearer token of the weight routes; required if host is not a loopback address"
    )
    admin_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="second port of the server; if it is set, the weight routes answer only on this port, and all "
        "other routes answer on both ports; a firewall can then allow only the trainer to connect to this port",
    )
    replicas: PositiveInt = Field(
        1, description="number of engines; with several engines or with vLLM, this service is a gateway to the engines"
    )
    replica_urls: tuple[str, ...] = Field(
        (),
        description="addresses of policy servers; if set, this service starts no engine and forwards requests to these "
        "servers",
    )
    replica_wait_s: PositiveFloat = Field(
        10.0, description="maximum time that a request waits for an available replica; afterwards the response is 503"
    )
    health_interval_s: PositiveFloat = Field(1.0, description="time between the gateway's health checks of a replica")
    affinity_slack: NonNegativeInt = Field(
        32,
        description="all requests with the same header x-session-id (a session) go to the same replica; if this "
        "replica has over affinity_slack more unfinished requests than the least busy replica, the session moves to "
        "the least busy replica",
    )
    max_waiting: PositiveInt = Field(
        8192, description="maximum number of queued sequences; the response to further requests is 503"
    )
    max_body_mb: PositiveInt = Field(8, description="maximum size of a request's body; weight files have no limit")
    max_held_mb: PositiveInt = Field(128, description="maximum size of the bodies of all unanswered requests together")
    max_connections: PositiveInt = Field(4096, description="maximum number of open connections of all clients together")
    max_messages: PositiveInt = Field(4096, description="maximum number of messages in a conversation")
    max_text_chars: PositiveInt | None = Field(
        None,
        description="maximum number of characters of a prompt or a conversation; default: 16 per token of "
        "max_model_len, at least 262144",
    )
    max_prompt_tokens: PositiveInt = Field(
        1 << 20, description="maximum number of tokens of all prompts of a request together"
    )
    max_logprobs: PositiveInt = Field(300_000, description="maximum number of log-probs in one response")
    text_threads: PositiveInt = Field(2, description="number of threads that render chat templates and tokenise texts")
    text_timeout_s: PositiveFloat = Field(
        30.0, description="time limit for rendering or tokenising one text; afterwards the response is 504"
    )
    request_timeout_s: PositiveFloat = Field(
        300.0, description="time limit of one request; afterwards the response is 504"
    )
    keep_alive_s: PositiveFloat = Field(75.0, description="idle time after which a connection is closed")
    shutdown_grace_s: PositiveFloat = Field(
        10.0, description="after SIGTERM, running requests can continue for this time"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="minimum severity of logged events"
    )


def read_variables(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the settings from environment variables. A variable `ARLARENA_INFERENCE_<KEY>` contains a setting. A
    variable `ARLARENA_INFERENCE_<KEY>_FILE` contains the path of a file with a secret.

    Raises:
        ConfigError: there is no setting <KEY>, or the file of a secret cannot be read.
    """
    given = os.environ if environment is None else environment
    ignored = secret_variables(ENVIRONMENT_PREFIX, InferenceSettings) | {ADDRESS_VARIABLE}
    for name in given:
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name.startswith(ENVIRONMENT_PREFIX) and key not in InferenceSettings.model_fields and name not in ignored:
            raise ConfigError(f"environment variable {name} does not name a setting of [inference]")
    return variables_of(given, ENVIRONMENT_PREFIX, InferenceSettings)


def load(path: Path | None, flags: Mapping[str, Any] | None = None) -> InferenceSettings:
    """Returns the settings. Command-line flags override environment variables. Environment variables override the
    configuration file. If `model` is a name on the Hugging Face Hub, the returned `model` is the model's directory in
    the local cache. If the cache does not contain the model, this function downloads the model first.

    `path`: the configuration file. `flags`: the values of command-line flags, by the name of the setting. A flag with
    the value None is ignored.

    Raises:
        ConfigError: the file cannot be read; a setting is unknown, malformed or missing; two settings contradict each
            other; or the model does not exist.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    settings = load_table(path, "inference", InferenceSettings, {**read_variables(), **given})
    try:
        addresses = tuple(map(service_url, settings.replica_urls))
    except ValueError as error:
        raise ConfigError(f"[inference] replica_urls: {error}") from error
    _check_secrets(settings)
    if settings.admin_port == settings.port:
        raise ConfigError(
            f"[inference] admin_port = {settings.admin_port} is the same as port: choose another admin_port"
        )
    if settings.replicas > 1 and settings.engine == "vllm" and settings.vllm_device == "cuda":
        raise ConfigError(
            f'[inference] replicas = {settings.replicas} is not possible with engine = "vllm" on GPUs: set '
            "replicas = 1. To use several GPUs, set vllm_arguments = "
            '["--data-parallel-size", "2"], or start several services and a gateway (replica_urls)'
        )
    model = None if settings.model is None else local_model(settings.model)
    return settings.model_copy(update={"model": model, "replica_urls": addresses})


def check_model(settings: InferenceSettings) -> None:
    """Check that `model`, `weights_root` or `replica_urls` is set, and that the directory `model` has all files. Called
    before the port is bound.

    Raises:
        ConfigError: `model`, `weights_root` and `replica_urls` are all unset, or files of the model are missing.
    """
    model = settings.model
    if model is None and settings.weights_root is None and not settings.replica_urls:
        raise ConfigError("[inference] nothing to serve: set either model (or the flag --model) or weights_root")
    if model is not None and (missing := missing_files(model)):
        raise ConfigError(
            f"[inference] model = {str(model)!r} is not a Hugging Face model: it lacks {', '.join(missing)}"
        )


def needs_gateway(settings: InferenceSettings) -> bool:
    """True if this process must be a gateway: the settings select vLLM, several replicas, or remote replicas."""
    return settings.engine == "vllm" or settings.replicas > 1 or bool(settings.replica_urls)


def _check_secrets(settings: InferenceSettings) -> None:
    """Check that `admin_token` and `api_key` are set if `host` is not a loopback address.

    Raises:
        ConfigError: a secret is missing.
    """
    if is_loopback(settings.host):
        return
    secrets = (
        ("admin_token", settings.admin_token, "the routes that change the weights"),
        ("api_key", settings.api_key, "the model routes"),
    )
    for name, value, resource in secrets:
        if value is None:
            raise ConfigError(
                f"[inference] host = {settings.host!r} lets other machines reach {resource}: set [inference] {name}, "
                f"preferably by the environment variable {ENVIRONMENT_PREFIX}{name.upper()}"
            )


def secret(value: SecretStr | None) -> str | None:
    """Returns the text of a secret, or None."""
    return None if value is None else value.get_secret_value()


def main() -> int:
    """Check the configuration file given on the command line. Returns the exit code."""
    if len(sys.argv) != 2:
        raise ConfigError("usage: python -m arlarena.inference.settings FILE")
    load_table(Path(sys.argv[1]), "inference", InferenceSettings, read_variables())
    print("ok")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_on_config_error(main))
