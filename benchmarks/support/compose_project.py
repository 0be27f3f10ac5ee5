"""A deployment of compose.yaml with its own project name, secrets, ports and volumes, for benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.support.paths import ROOT

POLL_S = 2.0  # not shorter, because each docker command takes about 0.2 s of CPU time from the containers
# Ports on the host's loopback address. They differ from the default ports of compose.yaml, and from the ports of the
# container tests (18001 …).
PORTS = {
    "SOKOBAN": 28001, "ALFWORLD": 28002, "WEBSHOP": 28003, "INFERENCE": 28100, "GRAFANA": 28300, "PAGE": 28400,
}  # fmt: skip


class ComposeError(Exception):
    """A docker command failed."""


def docker(*arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = 600) -> str:
    """Return the output of a docker command.

    Raises:
        ComposeError: the command failed.
    """
    command = ["docker", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise ComposeError(f"{shlex.join(command)}: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout


class ComposeProject:
    """The containers of one Compose project, which run the services of compose.yaml.

    Args:
        name: name of the project.
        folder: folder for the secrets and for copies of files.
        config: configuration file of the run.
        workers: number of rollout workers.
        files: further compose files, in addition to compose.yaml.
        more: further environment variables for `docker compose`.
    """

    def __init__(
        self, name: str, folder: Path, config: Path, *, workers: int = 1, files: Sequence[Path] = (), **more: str
    ) -> None:
        self.name, self.folder = name, folder
        secrets = folder / "secrets"
        subprocess.run([sys.executable, "-m", "scripts.compose_secrets", str(secrets.resolve())], cwd=ROOT, check=True)
        self.variables = os.environ | {
            "COMPOSE_PROJECT_NAME": name,
            "COMPOSE_PROFILES": "cpu",
            "COMPOSE_FILE": os.pathsep.join(str(file) for file in (ROOT / "compose.yaml", *files)),
            "ARLARENA_CONFIG": str(config),
            "ARLARENA_SOKOBAN_CONFIG": str(config),
            "ARLARENA_SECRETS": str(secrets),
            "ARLARENA_WORKERS": str(workers),
            **{f"ARLARENA_{service}_PORT": str(port) for service, port in PORTS.items()},
            **more,
        }

    def compose(self, *arguments: str, timeout_s: float = 900) -> str:
        """Return the output of a `docker compose` command.

        Raises:
            ComposeError: the command failed.
        """
        return docker("compose", *arguments, env=self.variables, timeout_s=timeout_s)

    def containers(self, *services: str) -> dict[str, str]:
        """Return the containers of these services: name of the container → service. Without `services`: all."""
        rows = self.compose("ps", "--all", "--format", "json", *services).splitlines()
        return {row["Name"]: row["Service"] for row in map(json.loads, rows)}

    def state(self, container: str) -> dict[str, Any]:
        """Return the state of a container as `docker inspect` prints it."""
        state: dict[str, Any] = json.loads(docker("inspect", "--format", "{{json .State}}", container))
        return state

    def is_healthy(self, container: str) -> bool:
        """Return whether a container runs and its status is healthy."""
        state = self.state(container)
        return bool(state["Running"]) and state.get("Health", {}).get("Status") == "healthy"

    def has_succeeded(self, container: str) -> bool:
        """Return whether a container has ended with exit status 0."""
        state = self.state(container)
        return bool(state["Status"] == "exited" and state["ExitCode"] == 0)

    def copy(self, path: str, to: Path) -> bool:
        """Copy a file or folder from the run directory in the volume. No container needs to run.

        Return whether the copy succeeded.
        """
        with contextlib.suppress(ComposeError, subprocess.TimeoutExpired):
            self.compose("cp", f"run:/data/run/{path}", str(to))
            return True
        return False

    @cached_property
    def _volume(self) -> Path:
        """The run directory in the volume `run`, on the Docker host."""
        return Path(docker("volume", "inspect", "--format", "{{.Mountpoint}}", f"{self.name}_run").strip()) / "run"

    def read(self, path: str) -> str:
        """Return the text of a file in the run directory. If the file does not exist yet, return "".

        If Docker runs on another machine or for another user, this process cannot read the volume. Then Docker copies
        the file.
        """
        with contextlib.suppress(OSError, ComposeError):
            if self._volume.parent.is_dir():
                file = self._volume / path
                return file.read_text() if file.exists() else ""
        copy = self.folder / "copy"
        copy.unlink(missing_ok=True)
        return copy.read_text() if self.copy(path, copy) else ""

    def steps(self) -> int:
        """Return the number of steps that the trainer has recorded."""
        return len(self.read("metrics.jsonl").splitlines())

    def stages(self) -> list[str]:
        """Return the stages that the run has finished."""
        with contextlib.suppress(ValueError):
            return list(json.loads(self.read("run.json") or "{}").get("stages", {}))
        return []

    def ended(self) -> int | None:
        """Return the exit status of the container `run`. Return None if it runs or Docker will restart it."""
        state = self.state(f"{self.name}-run-1")
        return int(state["ExitCode"]) if state["Status"] == "exited" else None

    def until(self, condition: Callable[[], object], event: str, limit_s: float) -> None:
        """Wait until `condition()` is true. `event`: description of the condition for the error message.

        Raises:
            ComposeError: `condition()` is still false after `limit_s` seconds. The message contains the last log lines.
        """
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                raise ComposeError(f"{event}: not within {limit_s:g} s: {self.compose('logs', '--tail', '15')[-8000:]}")
            time.sleep(POLL_S)

    def down(self) -> None:
        """Remove all containers, networks and volumes of the project, and the secrets."""
        with contextlib.suppress(ComposeError, subprocess.TimeoutExpired):
            self.compose("down", "--volumes", "--timeout", "5")
        shutil.rmtree(self.folder / "secrets", ignore_errors=True)
