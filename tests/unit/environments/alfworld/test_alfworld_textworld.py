"""The stock engine, in a separate Python environment; and the error without its packages."""

import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from arlarena.environment.registry import load
from arlarena.proto.config import ConfigError

ROOT = Path(__file__).resolve().parents[4]
PYTHON = ROOT / ".venv-alfworld" / "bin" / "python"
DRIVER = ROOT / "tests" / "support" / "environments" / "alfworld_driver.py"
CHECKS = (
    "plays_like_ours",
    "forks_are_independent",
    "info",
    "plays_rules_that_ours_does_not",
    "a_game_that_textworld_does_not_take_is_an_error_of_the_task",
    "few_engines_play_many_games",
    "the_process_is_left_as_it_was",
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    if not PYTHON.exists():
        pytest.skip("TEXTWORLD IS NOT INSTALLED: `make setup EXTRA=alfworld` makes .venv-alfworld")
    environment = {name: value for name, value in os.environ.items() if name != "ALFWORLD_DATA"}
    environment["PYTHONPATH"] = os.pathsep.join(
        str(ROOT / part) for part in ("environments/alfworld", "environments/sdk", "proto")
    )
    command = [PYTHON, DRIVER, tmp_path_factory.mktemp("games")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("check", CHECKS)
def test_the_stock_engine(found, check):
    assert found[check] == "ok", found[check]


def test_every_check_has_a_result(found):
    assert set(found) == set(CHECKS)


def test_without_its_packages_the_error_names_the_fix():
    if find_spec("textworld"):
        pytest.skip("TEXTWORLD IS INSTALLED HERE, so nothing is missing")
    with pytest.raises(
        ConfigError,
        match=r"backend: No module named .*; backend = .textworld. needs TextWorld and alfworld: pip install",
    ):
        load("test", "alfworld", {"backend": "textworld"})
