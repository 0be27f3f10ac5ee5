"""The changes that the tutorials ask for lead to packages whose tests pass."""

import os
from pathlib import Path

import pytest
from support.docs.documents import DOCS, fenced
from support.processes import forking_support

from arlarena.console.cli.scaffold import init

TUTORIALS = DOCS / "tutorials"


def replace(file: Path, first: str, behind: str, text: str) -> None:
    """Put `text` in the place of what begins with `first` and ends before `behind`."""
    before, found, rest = file.read_text(encoding="utf-8").partition(first)
    kept = rest.partition(behind)
    assert found, first
    assert kept[1], behind
    file.write_text(f"{before}{text}{behind}{kept[2]}", encoding="utf-8")


def run_tests(folder: Path) -> None:
    variables = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    command = ["pytest", "-q", "-p", "no:cacheprovider"]
    done = forking_support.run(command, cwd=folder, env=variables, timeout=100, imports="arlarena.trainer")
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.timeout(120)
def test_the_environment_of_the_tutorial_passes_its_tests(tmp_path: Path) -> None:
    play, version = fenced(TUTORIALS / "add-an-environment.md", "python")
    folder = init("environment", "my_walk", tmp_path)
    replace(folder / "my_walk.py", "    def play(", "    def plan(", play + "\n")
    replace(folder / "my_walk.py", '    version = "1"\n', "    description", version)
    run_tests(folder)


@pytest.mark.timeout(120)
def test_the_objective_of_the_tutorial_passes_its_changed_tests(tmp_path: Path) -> None:
    clip, test = fenced(TUTORIALS / "add-an-objective.md", "python")
    folder = init("objective", "my_penalty", tmp_path)
    replace(folder / "my_penalty.py", "@register_clip(", "register_recipe(\n", clip + "\n\n")
    replace(folder / "test_my_penalty.py", "        losses.append", "    found, slopes", test)
    run_tests(folder)
