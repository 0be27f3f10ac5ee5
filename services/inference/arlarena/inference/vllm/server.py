"""The command that starts vLLM's server with the settings of `[inference]`.

    .venv-vllm/bin/python -m vllm.entrypoints.openai.api_server --model DIR --uds SOCKET …

It runs in a separate Python environment (`make setup EXTRA=vllm`), since vLLM pins torch, transformers and FastAPI. It
is controlled by its own routes and options; only `extension.py` runs inside it. It listens on a socket in a private
folder, because its weight routes need no token.
"""

from __future__ import annotations

import os
from pathlib import Path

from arlarena.inference.settings import InferenceSettings
from arlarena.inference.weights.store import newest_intact
from arlarena.proto.config import ConfigError
from arlarena.proto.text.redaction import is_secret

# Slots beyond those that the gateway fills, so that the probe of new weights need not wait. If requests of several
# sequences fill this slot too, the probe gets the next free slot.
SPARE = 1
# Defaults of sampling parameters are neutral, as in the embedded engine, instead of the model author's.
NEUTRAL = '{"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}'
EXTENSION = "arlarena.inference.vllm.extension.Extension"
SOURCES = Path(__file__).resolve().parents[3]


def check(settings: InferenceSettings) -> None:
    """Check before the start that vLLM is installed and there is a model.

    Raises:
        ConfigError: vLLM is not installed, or there is no model to serve.
    """
    python = settings.vllm_python
    if not python.exists():
        raise ConfigError(f"[inference] vllm_python = {str(python)!r} does not exist: `make setup EXTRA=vllm` makes it")
    model_to_serve(settings)


def model_to_serve(settings: InferenceSettings) -> Path:
    """The newest version that is intact, else the model of the settings.

    Raises:
        ConfigError: neither exists.
    """
    model = newest_intact(settings.weights_root) or settings.model
    if model is None:
        raise ConfigError("[inference] model is not set, and weights_root holds no intact version")
    return model


def command(settings: InferenceSettings, socket: Path) -> list[str]:
    """The command line of vLLM's server."""
    arguments = [
        "--model", str(model_to_serve(settings)), "--served-model-name", settings.served_model_name,
        "--uds", str(socket), "--enable-scale-out", "--weight-transfer-config", '{"backend": "safetensors"}',
        "--worker-extension-cls", EXTENSION, "--max-num-seqs", str(settings.max_slots + SPARE),
        "--scheduling-policy", "priority", "--no-enable-log-requests", "--disable-uvicorn-access-log",
        "--logprobs-mode", "processed_logprobs",  # at the temperature of the request
        "--override-generation-config", NEUTRAL,
    ]  # fmt: skip
    if settings.vllm_lora:
        arguments += ["--enable-lora"]
    if settings.vllm_device == "cpu":
        # No chunked prefill: it resets seeded generators, which crashes the engine of vLLM 0.32 on a CPU.
        tokens = max(settings.prefill_tokens_per_step, settings.max_model_len or 4096)
        arguments += ["--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill"]
        arguments += ["--max-num-batched-tokens", str(tokens)]
    if settings.max_model_len is not None:
        arguments += ["--max-model-len", str(settings.max_model_len)]
    python = str(settings.vllm_python)
    return [python, "-m", "vllm.entrypoints.openai.api_server", *arguments, *settings.vllm_arguments]


def variables(settings: InferenceSettings) -> dict[str, str]:
    """Environment variables of vLLM's server: the sources of the extension, the weight routes, no usage reports. Other
    ARLARENA_ variables and secrets are removed, since the gateway checks tokens and the model is a directory.
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
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ARLARENA_") and not is_secret(name, value)
    }
    return {**kept, **given}
