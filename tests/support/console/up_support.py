"""Runs `arlarena up` with fake services (`fake_services.py`)."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.console import fake_services
from support.processes import forking_support
from support.processes.forking_support import Forked

TESTS = Path(__file__).parents[2]
CONFIG = """
[run]
name = "test"
[environment]
name = "sokoban"
[clone]
demonstrations = 4
validation = 3
[trainer]
recipe = "sampo"
[console]
backoff_s = 0.01
health_interval_s = 0.1
health_timeout_s = 1.0
health_failures = 3
stop_timeout_s = 3.0
plain_interval_s = 0.05
page = false
"""


class Up:
    """A folder in which tests run `arlarena up`, with its configuration, flags and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.flags = folder, folder / "runs" / "test", folder / "flags"
        self.config = folder / "test.toml"
        self.config.write_text(CONFIG)
        self.flags.mkdir()
        self.fakes = folder / "fakes"
        fake_services.install(self.fakes, self.flags)
        self.processes: list[Forked] = []
        self.family: set[psutil.Process] = set()

    def start(self, *arguments: str, **environment: str) -> Forked:
        clean = {key: value for key, value in os.environ.items() if key not in ("REDIS_URL", "ARLARENA_SEED")}
        path = os.pathsep.join(filter(None, [str(self.fakes), str(TESTS), os.environ.get("PYTHONPATH")]))
        extra = {"PYTHONPATH": path, "COLUMNS": "200"}
        process = forking_support.popen(
            ["arlarena.console", *arguments],
            cwd=self.folder,
            env=clean | extra | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def up(self, *arguments: str, **environment: str) -> tuple[int, str]:
        process = self.start("up", str(self.config), *arguments, **environment)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def started(self, service: str) -> list[dict[str, Any]]:
        path = self.flags / "started"
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [record for record in records if record["service"] == service]

    def started_as(self, service: str, word: str) -> list[dict[str, Any]]:
        return [record for record in self.started(service) if word in record["argv"]]

    def steps(self) -> int:
        path = self.run / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 40
        while not condition():
            process = self.processes[-1]
            if process.poll() is not None:
                pytest.fail(f"`arlarena up` ended with {process.returncode}:\n{process.communicate(10)[0]}")
            assert time.monotonic() < deadline, "the condition is false after 40 s"
            self.see_family()
            time.sleep(0.02)
        self.see_family()

    def see_family(self) -> None:
        """Add all current child processes of the launcher to `family`."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.family |= set(psutil.Process(self.processes[-1].pid).children(recursive=True))

    def brokers(self) -> list[psutil.Process]:
        """Return the running broker processes in `family`."""
        found = []
        for member in self.family:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [member] if member.is_running() and "server" in member.name() else []
        return found
