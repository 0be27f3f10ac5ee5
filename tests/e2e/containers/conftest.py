"""The images for CPUs and one run of compose.yaml. Without a Docker engine, all tests here are skipped.

`make e2e` runs them. ARLARENA_E2E_BUILD_OPTIONS: further options of `docker build`. TORCH_INDEX and BASE_IMAGE: as for
`make images`. ARLARENA_E2E_KEEP=1: the containers are not removed at the end.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.containers.stack import BUILD_TIMEOUT_S, READY_TIMEOUT_S, ROOT, Stack, engine_problem


@pytest.fixture(scope="session")
def built() -> None:
    """The images for CPUs."""
    if problem := engine_problem():
        pytest.skip(f"NO DOCKER ENGINE, SO THE IMAGES AND compose.yaml ARE NOT TESTED: {problem}")
    options = shlex.split(os.environ.get("ARLARENA_E2E_BUILD_OPTIONS", ""))
    command = [sys.executable, str(ROOT / "scripts" / "images.py"), "build"]
    command += [f"--build-option={option}" for option in options]
    subprocess.run(command, check=True, timeout=BUILD_TIMEOUT_S)


@pytest.fixture(scope="session")
def stack(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A run in containers, which has just become healthy."""
    started = Stack(tmp_path_factory.mktemp("compose"))
    try:
        started.compose("up", "--wait", "--pull", "never", "--no-build", timeout_s=READY_TIMEOUT_S)
        yield started
    finally:
        if not os.environ.get("ARLARENA_E2E_KEEP"):
            subprocess.run(["docker", "compose", "down", "--volumes"], cwd=ROOT, env=started.variables, check=False)
