"""The images: what they contain, how large they are, and how they run."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from typing import Any

import pytest
from scripts import images
from support.containers.stack import BUILD_TIMEOUT_S

# In MB over the base image.
LARGEST = {"environment-tir-math": 450} | dict.fromkeys(
    ("environment-sokoban", "environment-alfworld", "environment-webshop"), 250
)
ENVIRONMENTS = sorted(LARGEST)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(4000)]  # the images are built


def inspect(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(images.docker("image", "inspect", images.IMAGES[name].tag(name)))[0]
    return found


def python(name: str, program: str) -> str:
    tag = images.IMAGES[name].tag(name)
    hardened = ("--rm", "--read-only", "--network", "none", "--cap-drop", "ALL")
    return images.docker("run", *hardened, "--entrypoint", "python", tag, "-c", program)


@pytest.mark.parametrize("name", images.CPU_IMAGES)
def test_an_image_runs_as_an_ordinary_user_and_has_labels(built: None, name: str) -> None:
    config = inspect(name)["Config"]
    assert config["User"] == ("999:999" if name == "redis" else "10001:10001")
    assert config["Labels"]["org.opencontainers.image.version"] == images.VERSION
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert all("TOKEN" not in variable and "PASSWORD" not in variable for variable in config["Env"])


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_server_is_small_and_has_only_its_own_environment(built: None, name: str) -> None:
    (row,) = images.measure([name])
    assert isinstance(row["mb_over_base"], int)
    assert row["mb_over_base"] <= LARGEST[name]
    program = (
        "import importlib.util as u, json; from importlib.metadata import entry_points as e; "
        "print(json.dumps([[p.name for p in e(group='arlarena.environments')], "
        "[m for m in ('torch', 'transformers', 'redis', 'arlarena.trainer') if u.find_spec(m)]]))"
    )
    environments, others = json.loads(python(name, program))
    assert environments == [images.IMAGES[name].arguments["ENVIRONMENT"]]
    assert others == []


def test_the_image_of_the_workers_has_no_torch(built: None) -> None:
    assert python("rollout", "import importlib.util; print(importlib.util.find_spec('torch'))") == "None"


def test_the_list_of_packages_has_those_of_python_and_debian(built: None) -> None:
    command = [str(images.ROOT / ".venv-containers" / "bin" / "python"), "-m", "scripts.sbom", "environment-sokoban"]
    subprocess.run(command, cwd=images.ROOT, check=True, timeout=300)
    document = json.loads((images.ROOT / "sbom" / "environment-sokoban.json").read_text())
    found = {component["name"]: component["version"] for component in document["components"]}
    program = "from importlib.metadata import version; print(version('numpy'))"
    assert found["numpy"] == python("environment-sokoban", program)
    assert found["arlarena-sokoban"] == images.VERSION
    assert found["libc6"]


@pytest.mark.parametrize("name", [name for name, image in images.IMAGES.items() if image.gpu])
def test_the_layers_of_a_gpu_image_build_on_the_base_image(
    built: None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base image replaces vLLM's image, and torch for CPUs replaces torch for CUDA. The image gets another tag."""
    monkeypatch.setenv("VLLM_IMAGE", os.environ.get("BASE_IMAGE") or "python:3.11-slim")
    options = shlex.split(os.environ.get("ARLARENA_E2E_BUILD_OPTIONS", ""))
    command = [
        *images.build_command(name, options)[:-1],
        "--build-arg",
        f"TORCH_INDEX={os.environ.get('TORCH_INDEX', '')}",
    ]
    tag = "arlarena/e2e-stand-in:gpu"
    command[command.index("--tag") + 1] = tag
    variables = os.environ | {"DOCKER_BUILDKIT": "1"}
    subprocess.run([*command, "."], cwd=images.ROOT, env=variables, check=True, timeout=BUILD_TIMEOUT_S)
    try:
        config = json.loads(images.docker("image", "inspect", tag))[0]["Config"]
        assert config["User"] == "10001:10001"
        assert config["Cmd"][:2] == ["arlarena", "join"]
        program = "import importlib.util as u; print(u.find_spec('arlarena.console') is not None)"
        assert images.docker("run", "--rm", "--network", "none", tag, "python3", "-c", program) == "True"
    finally:
        images.docker("image", "rm", tag)
