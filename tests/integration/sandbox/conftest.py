"""A sandbox of forks, and an image with the sandbox and its attacks on the Docker engine of this machine.

The image needs an engine that `docker` reaches, and a base image (BASE_IMAGE, python:3.11-slim by default) that is
there or can be pulled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from arlarena.sandbox.forks import ForkSandbox, ForkSettings
from arlarena.sandbox.limits import ExecutionLimits

ROOT = Path(__file__).resolve().parents[3]
BASE = os.environ.get("BASE_IMAGE", "python:3.11-slim")


def docker(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def image() -> str:
    if not shutil.which("docker") or docker("version", timeout=30).returncode:
        pytest.skip("NO DOCKER ENGINE: the attacks did not run in a container")
    if docker("image", "inspect", BASE).returncode and docker("pull", BASE).returncode:
        pytest.skip(f"NO BASE IMAGE {BASE}: the attacks did not run in a container")
    name = "arlarena-sandbox-attacks"
    file = str(Path(__file__).with_name("Dockerfile"))
    built = docker("build", "--network=host", "--build-arg", f"BASE_IMAGE={BASE}", "-t", name, "-f", file, str(ROOT))
    assert built.returncode == 0, built.stderr[-3000:]
    return name


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ForkSandbox]:
    made = ForkSandbox(ForkSettings(limits=ExecutionLimits(wall_s=4.0, cpu_s=2.0, memory_mb=256)))
    yield made
    made.close()
