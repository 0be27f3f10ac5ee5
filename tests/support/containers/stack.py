"""A deployment of compose.yaml for the tests."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts import compose_secrets, images

ROOT = Path(__file__).resolve().parents[3]
BUILD_TIMEOUT_S, READY_TIMEOUT_S, TRAINING_TIMEOUT_S = 3600, 900, 2400
PROJECT = "arlarena-e2e"
STEPS = 28  # enough steps for the scan of ports and for all kills during the training
SERVICES = ("sokoban", "alfworld", "webshop", "tir-math", "redis", "run", "inference", "rollout", "trainer", "page")


def engine_problem() -> str:
    """Return the reason why Docker is not available, or "" if it is available."""
    try:
        done = subprocess.run(["docker", "version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip()


def container(service: str) -> str:
    """Return the name of the (first) container of a service."""
    return f"{PROJECT}-{service}-1"


class Stack:
    """A deployment of compose.yaml with its own names, ports, secrets and volumes."""

    def __init__(self, folder: Path) -> None:
        compose_secrets.write_all(folder / "secrets")
        short = (ROOT / "tests" / "e2e" / "short.toml").read_text()
        config = folder / "run.toml"
        config.write_text(re.sub(r"(?m)^steps = \d+$", f"steps = {STEPS}", short))
        self.variables = os.environ | {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_PROFILES": "cpu",
            "ARLARENA_CONFIG": str(config),
            "ARLARENA_SOKOBAN_CONFIG": str(config),
            "ARLARENA_SECRETS": str(folder / "secrets"),
            "ARLARENA_REDIS_IMAGE": images.IMAGES["redis"].tag("redis"),
            "ARLARENA_SOKOBAN_PORT": "18001",
            "ARLARENA_ALFWORLD_PORT": "18002",
            "ARLARENA_WEBSHOP_PORT": "18003",
            "ARLARENA_INFERENCE_PORT": "18100",
            "ARLARENA_PAGE_PORT": "18400",
        }

    def compose(self, *arguments: str, timeout_s: float = 300) -> str:
        """Run a compose command, assert that it succeeds, and return its output."""
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=ROOT,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        said = f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
        assert done.returncode == 0, f"docker compose {shlex.join(arguments)}: {said}"
        return done.stdout

    def state(self, service: str) -> dict[str, Any]:
        """Return the state of a service's container in the format of `docker inspect`."""
        printed = images.docker("inspect", "--format", "{{json .State}}", container(service))
        state: dict[str, Any] = json.loads(printed)
        return state

    def gateways(self, service: str) -> list[str]:
        """Return the gateway addresses of a service's networks. Without `inhibit_ipv4`, they belong to the host."""
        printed = images.docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", container(service))
        networks = json.loads(printed)
        made = [json.loads(images.docker("network", "inspect", name))[0] for name in networks]
        return [str(config["Gateway"]) for network in made for config in network["IPAM"]["Config"]]

    def is_healthy(self, service: str) -> bool:
        """Return whether the service runs and its health check succeeds.

        The check is executed here, because Docker executes it only every 10 s.
        """
        if not self.state(service)["Running"]:
            return False
        config = json.loads(images.docker("inspect", "--format", "{{json .Config.Healthcheck}}", container(service)))
        if config["Test"][0] == "NONE":
            return True
        command = ["docker", "exec", container(service), *config["Test"][1:]]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0

    def python(self, service: str, program: str, *arguments: str, timeout_s: float = 600) -> str:
        """Run a Python program in the running container of a service. Return its output."""
        return self.compose("exec", "-T", service, "python", "-c", program, *arguments, timeout_s=timeout_s)

    def read(self, path: str) -> str:
        """Return the text of a file in the run directory, or "" if it does not exist yet. No container needs to run."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            command = ["docker", "cp", f"{container('run')}:/data/run/{path}", str(copy)]
            subprocess.run(command, capture_output=True, timeout=120, check=False)
            return copy.read_text() if copy.exists() else ""

    def steps(self) -> int:
        return len(self.read("metrics.jsonl").splitlines())

    def until(self, condition: Callable[[], bool], what: str, limit_s: float = TRAINING_TIMEOUT_S) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {self.compose('logs', '--tail', '20')[-6000:]}"
            time.sleep(1)
