"""The command that starts vLLM's server with the settings of `[inference]`.

    .venv-vllm/bin/python -m vllm.entrypoints.openai.api_server --model DIR --uds SOCKET …

vLLM runs in a separate Python environment (`make setup EXTRA=vllm`), because vLLM needs exact versions of torch,
transformers and FastAPI. The gateway controls vLLM by vLLM's own routes and options. `extension.py` is the only module
of this repository that runs inside vLLM. vLLM's weight routes need no token, so vLLM's server listens on a socket in a
private folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from arlarena.inference.settings import InferenceSettings
from arlarena.inference.weights.store import newest_intact
from arlarena.proto.config import ConfigError
from arlarena.proto.text.redaction import is_secret

# vLLM gets this many slots more than max_slots. The gateway sends at most max_slots requests at the same time, so one
# slot is free for the probe of new weights (a comparison of log-probs with the trainer's log-probs). If requests with
# several sequences occupy all slots, the probe gets the next slot that becomes free.
SPARE = 1
# Default sampling parameters. They do not change the model's distribution, as in the embedded engine. They replace the
# defaults in the model's `generation_config.json`.
NEUTRAL = '{"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}'
EXTENSION = "arlarena.inference.vllm.extension.Extension"
SOURCES = Path(__file__).resolve().parents[3]  # the folder that contains the package `arlarena`


def check(settings: InferenceSettings) -> None:
    """Check that vLLM is installed and that there is a model to serve. Called before the start of vLLM's server.

    Raises:
        ConfigError: vLLM is not installed, or there is no model to serve.
    """
    python = settings.vllm_python
    if not python.exists():
        raise ConfigError(f"[inference] vllm_python = {str(python)!r} does not exist: run `make setup EXTRA=vllm`")
    model_to_serve(settings)


def model_to_serve(settings: InferenceSettings) -> Path:
    """Returns the newest intact version directory in the setting `weights_root`. If there is no such directory, returns
    the setting `model`.

    Raises:
        ConfigError: there is no such directory, and `model` is not set.
    """
    model = newest_intact(settings.weights_root) or settings.model
    if model is None:
        raise ConfigError("[inference] nothing to serve: there is no intact version in weights_root: set model")
    return model


def command(settings: InferenceSettings, socket: Path) -> list[str]:
    """Returns the command line of vLLM's server."""
    arguments = [
        "--model", str(model_to_serve(settings)), "--served-model-name", settings.served_model_name,
        "--uds", str(socket), "--enable-scale-out", "--weight-transfer-config", '{"backend": "safetensors"}',
        "--worker-extension-cls", EXTENSION, "--max-num-seqs", str(settings.max_slots + SPARE),
        "--scheduling-policy", "priority", "--no-enable-log-requests", "--disable-uvicorn-access-log",
        "--logprobs-mode", "processed_logprobs",  # log-probs at the temperature of the request
        "--override-generation-config", NEUTRAL,
    ]  # fmt: skip
    if settings.vllm_lora:
        arguments += ["--enable-lora"]
    if settings.vllm_device == "cpu":
        # On a CPU, chunked prefill in vLLM 0.32 has two faults. It resets the random generators of requests with a
        # seed, and it crashes. Without chunked prefill, one step must have room for all tokens of the longest prompt.
        tokens = max(settings.prefill_tokens_per_step, settings.max_model_len or 4096)
        arguments += ["--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill"]
        arguments += ["--max-num-batched-tokens", str(tokens)]
    if settings.max_model_len is not None:
        arguments += ["--max-model-len", str(settings.max_model_len)]
    python = str(settings.vllm_python)
    return [python, "-m", "vllm.entrypoints.openai.api_server", *arguments, *settings.vllm_arguments]


def variables(settings: InferenceSettings) -> dict[str, str]:
    """Returns the environment variables of vLLM's server. They contain the import path of the extension, enable vLLM's
    weight routes and disable usage reports. All other variables are copied from this process, except secrets and
    variables whose names begin with `ARLARENA_`. vLLM's server does not need these.
    """
    path = os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH", "")]))
    given = {
        "PYTHONPATH": path,
        "VLLM_SERVER_DEV_MODE": "1",  # enables /pause, /update_weights and the other weight routes
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": str(settings.threads),
    }
    if settings.vllm_lora:
        given["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if settings.vllm_device == "cpu":
        given["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, settings.kv_cache_mb >> 10))
        given["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ARLARENA_") and not is_secret(name, value)
    }
    return {**inherited, **given}
