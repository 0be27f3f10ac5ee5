"""`arlarena doctor`: checks whether this machine can run ARLArena."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from arlarena.console.launch.broker import BrokerError, check_broker, find_server
from arlarena.console.settings import BrokerSettings, available_cores, external_broker_url
from arlarena.proto.config import ConfigError
from arlarena.proto.streams.queue import redact
from arlarena.proto.text.wording import counted

Verdict = Literal["ok", "warning", "problem"]
OLDEST_PYTHON = (3, 11)
# Recommended memory and disk space. The processes of the demo together need about 2.5 GB of memory, and a run directory
# needs about 200 MB.
MEMORY_GB, DISK_GB = 4.0, 2.0
TORCH_TIMEOUT_S = 120.0
SERVICES = ("env_server", "inference", "rollout", "trainer")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: one line of the output."""

    check: str
    verdict: Verdict
    result: str


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= OLDEST_PYTHON
    return Finding("python", "ok" if good else "problem", version if good else f"{version}: 3.11 or newer is needed")


def _cores() -> Finding:
    cores = available_cores()
    result = f"{cores} usable"
    return Finding("cores", "ok", result) if cores > 1 else Finding("cores", "warning", f"{result}, 2 recommended")


def _memory() -> Finding:
    free = psutil.virtual_memory().available / 2**30
    result = f"{free:.1f} GB available"
    return (
        Finding("memory", "ok", result)
        if free >= MEMORY_GB
        else Finding("memory", "warning", f"{result}, {MEMORY_GB:g} GB recommended")
    )


def _torch() -> Finding:
    """Check the import of torch. A separate process imports torch, because the console does not depend on torch."""
    code = "import torch; print(torch.__version__, torch.get_num_threads(), torch.cuda.is_available())"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TORCH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Finding("torch", "problem", f"the import takes longer than {TORCH_TIMEOUT_S:g} s")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Finding("torch", "problem", f"cannot be imported: {last}; run `make setup`")
    version, threads, cuda = done.stdout.split()
    return Finding(
        "torch",
        "ok",
        f"{version}, {counted(int(threads), 'thread')} by default, GPU: {'yes' if cuda == 'True' else 'no'}",
    )


def _services() -> Finding:
    missing = [name for name in SERVICES if importlib.util.find_spec(f"arlarena.{name}") is None]
    if missing:
        return Finding("services", "problem", f"not installed: {', '.join(missing)}; run `make setup`")
    return Finding("services", "ok", ", ".join(SERVICES))


def _broker() -> Finding:
    try:
        if url := external_broker_url(BrokerSettings()):
            check_broker(url)
            return Finding("broker", "ok", f"REDIS_URL {redact(url)}")
        return Finding("broker", "ok", str(find_server()))
    except (BrokerError, ConfigError) as error:
        return Finding("broker", "problem", str(error))


def _ports() -> Finding:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return Finding("ports", "ok", "127.0.0.1 has free ports")
    except OSError as error:
        return Finding("ports", "problem", f"127.0.0.1 cannot be bound: {error.strerror}")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    result = f"{free:.1f} GB free in this folder"
    return (
        Finding("disk", "ok", result)
        if free >= DISK_GB
        else Finding("disk", "warning", f"{result}, {DISK_GB:g} GB recommended")
    )


CHECKS: tuple[Callable[[], Finding], ...] = (_python, _cores, _memory, _torch, _services, _broker, _ports, _disk)


def examine() -> list[Finding]:
    """Run all checks. Returns the findings in the order of the output."""
    return [check() for check in CHECKS]
