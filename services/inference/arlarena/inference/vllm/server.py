"""Starts vLLM's own server with our settings, says when it serves, and ends with it.

    .venv-vllm/bin/python -m vllm.entrypoints.openai.api_server --model DIR …        what is started

It runs in an environment of its own (`make setup-vllm`), since vLLM pins torch, transformers and FastAPI. Everything it
does for us is by its own routes and options; `extension.py` is the one thing of ours inside it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Literal

import aiohttp

from arlarena.inference.settings import InferenceSettings
from arlarena.inference.weights import committed_versions
from arlarena.proto.config import ConfigError
from arlarena.proto.telemetry import Logger, announce

POLL_S = 0.5
EXTENSION = "arlarena.inference.vllm.extension.Extension"
SOURCES = Path(__file__).resolve().parents[3]


def model_to_serve(settings: InferenceSettings) -> Path:
    """The newest committed version, else the model of the settings.

    Raises:
        ConfigError: there is neither.
    """
    newest = committed_versions(settings.weights_root) if settings.weights_root else []
    found = newest[0] if newest else settings.model
    if found is None:
        raise ConfigError("[inference] model is not set, and weights_root holds no committed version")
    return found


def command(settings: InferenceSettings, model: Path, port: int) -> list[str]:
    """The command line of vLLM's server.

    Raises:
        ConfigError: its Python is not there.
    """
    python = settings.vllm_python
    if not python.exists():
        raise ConfigError(f"[inference] vllm_python = {str(python)!r} does not exist: `make setup-vllm` makes it")
    arguments = [
        "--model", str(model), "--served-model-name", settings.served_model_name, "--host", settings.host,
        "--port", str(port), "--enable-scale-out", "--weight-transfer-config", '{"backend": "safetensors"}',
        "--worker-extension-cls", EXTENSION, "--max-num-seqs", str(settings.max_slots), "--no-enable-log-requests",
        "--disable-uvicorn-access-log", "--logprobs-mode", "processed_logprobs",  # at the temperature of the request
    ]  # fmt: skip
    if settings.vllm_device == "cpu":
        # Whole prompts at once: a prompt that is cut sets a seeded generator back, which vLLM 0.32 cannot do on a CPU,
        # and its engine dies of it.
        tokens = max(settings.prefill_tokens_per_step, settings.max_model_len or 4096)
        arguments += ["--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill"]
        arguments += ["--max-num-batched-tokens", str(tokens)]
    if settings.max_model_len is not None:
        arguments += ["--max-model-len", str(settings.max_model_len)]
    return [str(python), "-m", "vllm.entrypoints.openai.api_server", *arguments, *settings.vllm_arguments]


def variables(settings: InferenceSettings) -> dict[str, str]:
    """The environment of vLLM's server: our sources for the extension, the routes for weight updates, no hub."""
    path = os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH", "")]))
    given = {
        "PYTHONPATH": path,
        "VLLM_SERVER_DEV_MODE": "1",  # /pause, /update_weights and their like
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": str(settings.threads),
    }
    if settings.vllm_device == "cpu":
        given["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, settings.kv_cache_mb >> 10))
        given["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return {**os.environ, **given}


def free_port(host: str) -> int:
    """A port that nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


async def run(settings: InferenceSettings, log: Logger) -> int:
    """Serve until a signal or until vLLM ends; the exit code."""
    port = settings.port or free_port(settings.host)
    model = model_to_serve(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    process = await asyncio.create_subprocess_exec(
        *command(settings, model, port), env=variables(settings), start_new_session=True
    )
    ended = asyncio.ensure_future(process.wait())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        if await _serves(f"http://{settings.host}:{port}", ended, stopped):
            log.info("serving", engine="vllm", model=str(model), port=port)
            announce(settings.host, port)
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        await _end(process, ended, settings.shutdown_grace_s)
    if stop.is_set():
        log.info("stopped")
        return 0
    log.error("vllm_ended", code=process.returncode)
    return 1


async def _serves(url: str, ended: asyncio.Future[int], stopped: asyncio.Future[Literal[True]]) -> bool:
    """Wait for the first 200 of /health; False where vLLM ended or a signal came first."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as session:
        while not ended.done() and not stopped.done():
            try:
                async with session.get(url + "/health") as reply:
                    if reply.status == 200:
                        return True
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.wait((ended, stopped), timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
    return False


async def _end(process: asyncio.subprocess.Process, ended: asyncio.Future[int], grace_s: float) -> None:
    """End vLLM and the processes that it started: they share its session."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        if ended.done() and number is signal.SIGTERM:
            continue
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        await asyncio.wait((ended,), timeout=wait_s)
