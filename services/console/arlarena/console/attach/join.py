"""`arlarena join`: starts one service of a run, for example in a container.

The process waits until the stage before the service (see `STAGE_BEFORE`) has finished. Then the process replaces itself
with the service. The command line is the same as in `arlarena up`. If the container is restarted, `arlarena join`
starts the service again. The trainer then continues from its newest checkpoint, a worker gets a new name, and the
policy server loads the newest version of the weights.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from arlarena.console.launch.child import Address, GivenAddress, ProcessSpec
from arlarena.console.launch.commands import Commands
from arlarena.console.launch.launcher import PRIVATE
from arlarena.console.report.ending import read_ending
from arlarena.console.runconfig import RunConfig
from arlarena.console.rundir import RunDirectory
from arlarena.console.settings import ADMIN_TOKEN, BROKER_URL, ServiceAddresses, given_admin_token
from arlarena.proto.config import ConfigError, read_with_secrets
from arlarena.proto.telemetry import get_logger

# For each service: the stage that must be finished before the service starts.
STAGE_BEFORE = {"inference": "clone", "rollout": "evaluate before", "trainer": "evaluate before"}
_POLL_S, _REMINDER_S = 1.0, 60.0


def waiting_file() -> Path:
    """Returns the path of a file. A waiting process updates this file every second for the container's health check."""
    return Path(tempfile.gettempdir()) / "arlarena-waiting"


@dataclass(frozen=True, slots=True)
class Join:
    """One service that joins a run. `host`, `port`: the address at which a policy server listens."""

    service: str
    run: RunDirectory
    addresses: ServiceAddresses
    host: str
    port: int

    def start(self) -> None:
        """Wait until the service can start, then replace this process with the service.

        Returns only if training is over. The service then has nothing to do.

        Raises:
            ConfigError: an address or the admin token is missing, or the run's files cannot be used.
        """
        self._check()
        self._wait()
        if self._training_is_over():
            get_logger("join").info("nothing_to_do", service=self.service, reason="training is over")
            return
        command = self._command()
        os.umask(PRIVATE)
        sys.stdout.flush()
        os.execve(command.argv[0], list(command.argv), dict(command.env))

    def _check(self) -> None:
        needed = {"ARLARENA_INFERENCE_ADMIN_TOKEN": self.service == "rollout" or given_admin_token()}
        if self.service != "inference":
            needed |= {
                "ARLARENA_ENVIRONMENT_URL": self.addresses.environment_url,
                "ARLARENA_INFERENCE_URL": self.addresses.inference_url,
                BROKER_URL: self.addresses.redis_url,
            }
        if missing := [name for name, value in needed.items() if not value]:
            names = (f"{name} (or {name}_FILE)" if name == ADMIN_TOKEN else name for name in missing)
            raise ConfigError(f"arlarena join {self.service}: set {', '.join(names)}")

    def _wait(self) -> None:
        stage, log = STAGE_BEFORE[self.service], get_logger("join")
        reminded = -_REMINDER_S
        while not self._is_done(stage):
            if time.monotonic() - reminded >= _REMINDER_S:
                reminded = time.monotonic()
                log.info("waiting", service=self.service, run=str(self.run.path), until=f"stage {stage!r} is done")
            waiting_file().touch()
            time.sleep(_POLL_S)
        waiting_file().unlink(missing_ok=True)

    def _is_done(self, stage: str) -> bool:
        state = self.run.read_state()
        return state is not None and stage in state.stages

    def _training_is_over(self) -> bool:
        if self.service == "inference":
            return False
        state, ending = self.run.read_state(), read_ending(self.run.training)
        finished = ending is not None and ending["ended_by"] not in ("signal", "error")
        return finished or (state is not None and "train" in state.stages)

    def _command(self) -> ProcessSpec:
        state = self.run.read_state()
        assert state is not None  # `_wait` returns only if the state exists
        self.run.state = state
        config = RunConfig(self.run.config, read_with_secrets(self.run.config))
        commands = Commands(config, self.run)
        build: dict[str, Callable[[], ProcessSpec]] = {
            "inference": lambda: commands.inference(Address(self.host, self.port), 0),
            "rollout": lambda: self._worker(commands),
            "trainer": lambda: self._trainer(commands),
        }
        return build[self.service]()

    def _worker(self, commands: Commands) -> ProcessSpec:
        name = f"worker-{socket.gethostname()}-{secrets.token_hex(4)}"
        return commands.worker("rollout", name, *self._given(), self.addresses.redis_url)

    def _trainer(self, commands: Commands) -> ProcessSpec:
        return commands.train(self.run.checkpoints.is_dir(), *self._given(), self.addresses.redis_url)

    def _given(self) -> tuple[GivenAddress, GivenAddress]:
        return GivenAddress(self.addresses.environment_url), GivenAddress(self.addresses.inference_url)
