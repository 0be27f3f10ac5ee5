"""Starts an environment server in a separate process, for benchmarks."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil


@contextlib.contextmanager
def environment_server(*flags: str, **settings: float) -> Iterator[tuple[str, psutil.Process]]:
    """Start a Sokoban server on a free port. Yield (URL, process). Stop the server at the end of the block.

    Args:
        flags: further arguments of `python -m arlarena.env_server`.
        settings: keys of the table `[environment]`.

    Raises:
        SystemExit: the server does not start.
    """
    with tempfile.TemporaryDirectory(prefix="arlarena-bench-") as folder:
        config = Path(folder) / "environment.toml"
        lines = [f"{name} = {value}" for name, value in settings.items()]
        config.write_text("\n".join(["[environment]", 'name = "sokoban"', *lines]) + "\n")
        command = [sys.executable, "-m", "arlarena.env_server", "--config", str(config), "--port", "0", *flags]
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
            assert process.stdout is not None
            try:
                announced = process.stdout.readline()
                if not announced:
                    log.seek(0)
                    raise SystemExit(f"error: the environment server did not start: {log.read()}")
                listening = json.loads(announced)
                yield f"http://{listening['host']}:{listening['port']}", psutil.Process(process.pid)
            finally:
                process.terminate()
                process.wait(timeout=60)


def ask(url: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
    """Send a POST request with the JSON `body`. If `body` is None, send a GET request.

    Returns (status, JSON of the reply).
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def open_sessions(url: str) -> int:
    """Return the number of open sessions of the environment server at `url`."""
    return int(ask(url + "/v1/capacity")[1]["active_sessions"])
