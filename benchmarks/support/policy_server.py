"""Starts a policy server in a separate process, for benchmarks."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

START_S = 120.0


@contextlib.contextmanager
def policy_server(folder: Path, **settings: Any) -> Iterator[tuple[str, psutil.Process]]:
    """Start a policy server on a free port, and wait until it is healthy. Yield (URL, process).

    The server stops at the end of the block.

    Args:
        folder: folder for the configuration and the log.
        settings: keys of the table `[inference]`.

    Raises:
        SystemExit: the server does not start.
    """
    config = folder / "inference.toml"
    write_config(config, settings)
    command = [sys.executable, "-m", "arlarena.inference", "--config", str(config), "--port", "0"]
    log = folder / "inference.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        url = f"http://127.0.0.1:{json.loads(line)['port']}" if line else ""
        deadline = time.monotonic() + START_S
        while not url or not _healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"error: the policy server did not start: {log.read_text()[-4000:]}")
            time.sleep(0.05)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)


def write_config(file: Path, settings: Mapping[str, Any]) -> None:
    """Write a configuration file with these keys in the table `[inference]`."""
    file.write_text("[inference]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:  # no connection, or no reply in time
        return False
