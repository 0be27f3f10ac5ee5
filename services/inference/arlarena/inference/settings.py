"""What a user can set of the policy server (table `[inference]`). No other file of this service reads the environment.

python -m arlarena.inference.settings FILE      check a configuration and print "ok"
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr

from arlarena.proto.config import ConfigError, exit_on_config_error, load_table, variables_of
from arlarena.proto.http.addresses import is_loopback, service_url
from arlarena.proto.shared_settings import InferenceKeys
from arlarena.proto.versions.hub import local_model, missing_files

ENVIRONMENT_PREFIX = "ARLARENA_INFERENCE_"


class InferenceSettings(InferenceKeys):
    """Table `[inference]`. Sizes that end in `_mb` are in units of 2**20 bytes, times in seconds."""

    model: Path | None = Field(
        None,
        description="directory in Hugging Face's format, or OWNER/NAME of its Hub: served while there is no committed "
        "version",
    )
    weights_root: Path | None = Field(None, description="directory of version directories; pushes must come from it")
    vllm_arguments: tuple[str, ...] = Field((), description="more of vLLM's options: --tensor-parallel-size 2")
    vllm_lora: bool = Field(False, description="take LoRA adapters by /v1/load_lora_adapter")
    host: str = Field("127.0.0.1", description="address to bind")
    served_model_name: str = Field("policy", min_length=1, description="name of the model in OpenAI's API")
    threads: PositiveInt = Field(1, description="torch threads; more than the cores left over slows everything down")
    max_slots: PositiveInt = Field(256, description="sequences that run at once")
    kv_cache_mb: PositiveInt = Field(2048, description="bound on the slots' memory; fewer slots if they need more")
    prefix_cache_mb: NonNegativeInt = Field(256, description="bound on computed prompts kept for reuse; 0 turns it off")
    prefill_tokens_per_step: PositiveInt = Field(2048, description="prompt tokens computed between two decoding steps")
    keep_versions: PositiveInt = Field(3, description="versions kept of those that a trainer sends over HTTP")
    admin_token: SecretStr | None = Field(
        None, min_length=16, description="what /serve_weights and its like ask for; needed where host is not loopback"
    )
    replicas: PositiveInt = Field(1, description="engines of this service behind one gateway; vllm always has one")
    replica_urls: tuple[str, ...] = Field((), description="be a gateway before these policy servers, and no more")
    replica_wait_s: PositiveFloat = Field(10.0, description="how long a request waits for a replica that can take it")
    health_interval_s: PositiveFloat = Field(1.0, description="between two looks of the gateway at a replica")
    affinity_slack: NonNegativeInt = Field(
        32, description="a session moves when its replica has this many more requests than the idlest"
    )
    max_waiting: PositiveInt = Field(8192, description="sequences queued before requests are answered 503")
    max_body_mb: PositiveInt = Field(8, description="a request's body; files of weights have no limit")
    max_held_mb: PositiveInt = Field(128, description="bodies of all requests that are not answered yet")
    max_connections: PositiveInt = Field(4096, description="open connections of all clients")
    max_messages: PositiveInt = Field(4096, description="messages of a conversation")
    max_text_chars: PositiveInt | None = Field(
        None,
        description="characters of a prompt or a conversation; default: 16 for each token of max_model_len, and 262144 "
        "at least",
    )
    max_prompt_tokens: PositiveInt = Field(1 << 20, description="tokens of all prompts of a request together")
    max_logprobs: PositiveInt = Field(300_000, description="log-probs in the answer to one request")
    text_threads: PositiveInt = Field(2, description="threads that render chat templates and tokenise")
    text_timeout_s: PositiveFloat = Field(30.0, description="a text that takes longer to tokenise is answered 504")
    request_timeout_s: PositiveFloat = Field(300.0, description="a request that takes longer is answered 504")
    keep_alive_s: PositiveFloat = Field(75.0, description="an idle connection is closed after this")
    shutdown_grace_s: PositiveFloat = Field(10.0, description="time for requests in flight at SIGTERM")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe events that are logged"
    )


def from_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Settings given as `ARLARENA_INFERENCE_<KEY>`.

    Raises:
        ConfigError: a variable with this prefix names no setting.
    """
    given = os.environ if environment is None else environment
    for name in given:
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name.startswith(ENVIRONMENT_PREFIX) and key not in InferenceSettings.model_fields:
            raise ConfigError(f"environment variable {name} names no setting of [inference]")
    return variables_of(given, ENVIRONMENT_PREFIX, InferenceSettings)


def load(path: Path | None, flags: Mapping[str, Any] | None = None) -> InferenceSettings:
    """Settings of a file, overridden by the environment, overridden by flags. A model of the Hugging Face Hub is
    downloaded if its cache has none, and `model` becomes the directory.

    Raises:
        ConfigError: something is unknown or malformed, or there is no such model.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    settings = load_table(path, "inference", InferenceSettings, {**from_environment(), **given})
    try:
        addresses = tuple(map(service_url, settings.replica_urls))
    except ValueError as error:
        raise ConfigError(f"[inference] replica_urls: {error}") from error
    _check_secrets(settings)
    if settings.replicas > 1 and settings.engine == "vllm" and settings.vllm_device == "cuda":
        raise ConfigError(
            '[inference] replicas = 1 for vllm on GPUs: give it several by vllm_arguments = ["--data-parallel-size", '
            '"2"], or put a gateway (replica_urls) before several such services'
        )
    model = None if settings.model is None else local_model(settings.model)
    return settings.model_copy(update={"model": model, "replica_urls": addresses})


def check_model(settings: InferenceSettings) -> None:
    """What can be known of the model before the port is bound.

    Raises:
        ConfigError: there is nothing to serve, or `model` lacks files.
    """
    model = settings.model
    if model is None and settings.weights_root is None and not settings.replica_urls:
        raise ConfigError("[inference] nothing to serve: give model (--model DIR or NAME) or weights_root")
    if model is not None and (lacking := missing_files(model)):
        raise ConfigError(f"[inference] model: {model} is no Hugging Face model: it lacks {', '.join(lacking)}")


def needs_gateway(settings: InferenceSettings) -> bool:
    """Whether the service is more than one embedded engine in one process."""
    return settings.engine == "vllm" or settings.replicas > 1 or bool(settings.replica_urls)


def _check_secrets(settings: InferenceSettings) -> None:
    """Refuse an address that others reach where no secret keeps them out."""
    if is_loopback(settings.host):
        return
    secrets = (
        ("admin_token", settings.admin_token, "the routes that take weights"),
        ("api_key", settings.api_key, "the model"),
    )
    for name, value, what in secrets:
        if value is None:
            raise ConfigError(
                f"[inference] host = {settings.host!r} lets others reach {what}: set {name}, best by the environment "
                f"variable {ENVIRONMENT_PREFIX}{name.upper()}"
            )


def secret(value: SecretStr | None) -> str | None:
    """The text of a secret."""
    return None if value is None else value.get_secret_value()


def main() -> int:
    """Check the file named on the command line."""
    if len(sys.argv) != 2:
        raise ConfigError("usage: python -m arlarena.inference.settings FILE")
    load_table(Path(sys.argv[1]), "inference", InferenceSettings, from_environment())
    print("ok")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_on_config_error(main))
