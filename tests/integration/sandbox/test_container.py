"""The attacks within a real container: default seccomp profile, no capabilities, an ordinary user; and as root.

It needs a Docker engine that `docker` reaches, and a base image (BASE_IMAGE, by default python:3.11-slim) that is there
or can be pulled.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]
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


@pytest.mark.parametrize(
    ("user", "options"),
    [
        ("10001:10001", ["--cap-drop=ALL", "--read-only", "--tmpfs=/tmp"]),
        ("10001:10001", ["--cap-drop=ALL", "--security-opt=no-new-privileges"]),
        ("0:0", []),
        ("0:0", ["--cap-drop=ALL"]),
    ],
)
def test_no_attack_comes_through(image: str, user: str, options: list[str]) -> None:
    done = docker("run", "--rm", f"--user={user}", "--network=none", "--memory=6g", *options, image)
    assert done.stdout, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(json.dumps(found))
    assert (found["breaches"], found["honest_wrong"]) == ({}, [])
    assert found["attacks"] >= 150
    assert {"rlimits", "capabilities", "no_new_privs", "landlock", "seccomp"} <= set(found["layers"])
    assert ("user" in found["layers"]) == (user == "0:0" and not options)
    assert done.returncode == 0
