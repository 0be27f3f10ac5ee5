"""Compose itself reads compose.yaml with each profile. No image and no engine is needed, only the command."""

import os
import subprocess

import pytest
from support.containers.stack import ROOT

ALWAYS = {"sokoban", "alfworld", "webshop", "tir-math", "redis", "run", "rollout", "page"}
PROFILES = {
    "cpu": ALWAYS | {"inference", "trainer"},
    "gpu": ALWAYS | {"inference-gpu", "trainer-gpu"},
    "cpu,eval": ALWAYS | {"inference", "trainer", "eval"},
    "cpu,observe": ALWAYS | {"inference", "trainer", "prometheus", "grafana"},
    "build": ALWAYS | {"redis-image"},
}


def compose(*arguments: str, profiles: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", "compose", *arguments]
    variables = os.environ | {"COMPOSE_PROFILES": profiles}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def command() -> None:
    """The command `docker compose`."""
    try:
        problem = compose("version", profiles="").stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        pytest.skip(f"NO DOCKER COMPOSE, SO THE PROFILES ARE NOT CHECKED: {problem}")


@pytest.mark.parametrize("profiles", PROFILES)
def test_a_profile_has_its_services_and_a_configuration_that_compose_accepts(command: None, profiles: str) -> None:
    done = compose("config", "--services", profiles=profiles)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == PROFILES[profiles]
    done = compose("config", "--quiet", profiles=profiles)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
