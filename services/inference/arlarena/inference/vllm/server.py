"""The command that starts vLLM's own server with our settings.

    .venv-vllm/bin/python -m vllm.entrypoints.openai.api_server --model DIR --uds SOCKET …

It runs in an environment of its own (`make setup EXTRA=vllm`), since vLLM pins torch, transformers and FastAPI. It is
driven by its own routes and options; `extension.py` is the only part of ours inside it. It listens on a socket in a
private folder, because its routes for weights ask for no token.
"""

from __future__ import annotations

import os
from pathlib import Path

from arlarena.inference.settings import InferenceSettings
from arlarena.inference.weights.store import newest_whole
from arlarena.proto.config import ConfigError
from arlarena.proto.text.redaction import is_secret

# Slots above those that the gateway fills, so that the check of new weights need not wait for one; where requests
# of many sequences fill this one too, it is the first to have the next that is.
SPARE = 1
# What a request leaves out is neutral, as with the embedded engine, and not the model author's preference.
NEUTRAL = '{"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}'
EXTENSION = "arlarena.inference.vllm.extension.Extension"
SOURCES = Path(__file__).resolve().parents[3]


def check(settings: InferenceSettings) -> None:
    """Find out early whether it can be started.

    Raises:
        ConfigError: it is not installed, or there is nothing to serve.
    """
    python = settings.vllm_python
    if not python.exists():
        raise ConfigError(f"[inference] vllm_python = {str(python)!r} does not exist: `make setup EXTRA=vllm` makes it")
    model_to_serve(settings)


def model_to_serve(settings: InferenceSettings) -> Path:
    """The newest version that is whole, else the model of the settings.

    Raises:
        ConfigError: there is neither.
    """
    found = newest_whole(settings.weights_root) or settings.model
    if found is None:
        raise ConfigError("[inference] model is not set, and weights_root holds no whole version")
    return found


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
        # Whole prompts at once: a prompt that is cut sets a seeded generator back, which vLLM 0.32 cannot do on a CPU,
        # and its engine dies of it.
        tokens = max(settings.prefill_tokens_per_step, settings.max_model_len or 4096)
        arguments += ["--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill"]
        arguments += ["--max-num-batched-tokens", str(tokens)]
    if settings.max_model_len is not None:
        arguments += ["--max-model-len", str(settings.max_model_len)]
    python = str(settings.vllm_python)
    return [python, "-m", "vllm.entrypoints.openai.api_server", *arguments, *settings.vllm_arguments]


def variables(settings: InferenceSettings) -> dict[str, str]:
    """The environment of vLLM's server: our sources for the extension, the routes for weight updates, no hub. It has
    none of our own variables and no secrets: the gateway checks tokens, and the model is a directory.
    """
    path = os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH", "")]))
    given = {
        "PYTHONPATH": path,
        "VLLM_SERVER_DEV_MODE": "1",  # /pause, /update_weights and their like
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
