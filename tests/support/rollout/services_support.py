"""Runs the services that a rollout worker needs, each in a separate process."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.processes import forking_support
from support.processes.forking_support import Forked
from support.trainer.tiny_support import SOKOBAN

from arlarena.trainer.model.tiny import create_tiny_policy
from arlarena.trainer.policy_settings import TinyPolicy

CONFIG = """
[environment]
name = "sokoban"
capacity = 64
drain_s = 0.2
[environment.options]
observation = "grid+coordinates"
template = "compact"
max_moves = 8
[inference]
model = "{policy}"
max_model_len = 160
[policy]
path = "{policy}"
[rollout]
groups_in_flight = 3
lease_ttl_s = 2.0
lease_block_s = 0.2
connect_timeout_s = 2.0
environment_timeout_s = 5.0
generate_timeout_s = 10.0
request_retries = 0
episode_retries = 20
service_retry_timeout_s = 40.0
drain_s = 20.0
report_every_s = 0.5
"""


@dataclass
class Process:
    """A service: its command line, its port and its log."""

    arguments: tuple[str, ...]
    log: Path
    popen: Forked | None = None
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, listens: bool = True) -> None:
        """Start the service. After a restart, it has the same port."""
        port = ("--port", str(self.port)) if listens else ()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ARLARENA_")}
        with self.log.open("a") as log:
            self.popen = forking_support.popen(
                [*self.arguments, *port],
                stdout=subprocess.PIPE if listens else log,
                stderr=log,
                env=kept | {"OMP_NUM_THREADS": "1"},
            )
        if listens:
            assert self.popen.stdout is not None
            line = self.popen.stdout.readline()
            assert line, self.log.read_text()
            self.port = json.loads(line)["port"]

    def kill(self) -> None:
        assert self.popen is not None
        self.popen.kill()
        self.popen.wait(10)

    def stop(self) -> int:
        assert self.popen is not None
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(30)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == name]


@dataclass
class Stack:
    """A running environment server, a running policy server, and their configuration."""

    folder: Path
    policy: Path
    config: Path
    environment: Process
    inference: Process


@contextlib.contextmanager
def running_stack(folder: Path) -> Iterator[Stack]:
    """Start both servers with a tiny policy of random weights. Stop them at the end of the `with` block."""
    policy, config = folder / "policy", folder / "run.toml"
    create_tiny_policy(policy, TinyPolicy(layers=2, hidden=64), seed=0, pieces=SOKOBAN)
    config.write_text(CONFIG.format(policy=policy))
    environment = Process(("arlarena.env_server", "sokoban", "--config", str(config)), folder / "environment.log")
    inference = Process(("arlarena.inference", "--config", str(config)), folder / "inference.log")
    started: list[Process] = []
    try:
        for process in (environment, inference):
            process.start()
            started.append(process)
        yield Stack(folder, policy, config, environment, inference)
    finally:
        for process in started:
            process.stop()
