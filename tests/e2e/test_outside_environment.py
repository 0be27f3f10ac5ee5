"""An environment from outside the repository: built, installed, tested by the contract, served, and trained on."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from support.environments.environment_support import environment_server
from support.processes import forking_support

SOURCE = Path(__file__).parents[1] / "data" / "tic_tac_toe"
CONFIG = """
[environment]
name = "tic_tac_toe"
expert_splits = ["test"]
[policy.tiny]
layers = 1
hidden = 32
[clone]
demonstrations = 24
validation = 8
max_epochs = 1
validation_split = "test"
[trainer]
steps = 1
groups_per_step = 4
group_size = 4
minibatch_groups = 4
max_response_tokens = 48
[evaluation]
count = 8
episodes = 1
max_tokens = 48
split = "test"
"""


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    """Environment variables with which Python finds the installed package."""
    work = tmp_path_factory.mktemp("outside")
    shutil.copytree(SOURCE, work / "package")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", work / "site", work / "package"], check=True, capture_output=True, timeout=60)
    return os.environ | {"PYTHONPATH": str(work / "site"), "OMP_NUM_THREADS": "1"}


def test_it_is_short():
    assert len((SOURCE / "tic_tac_toe.py").read_text().splitlines()) < 80


def test_it_holds_the_contract(variables):
    done = forking_support.run(["arlarena.environment.contract", "tic_tac_toe"], env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 of 12 checks hold" in done.stdout


def test_it_is_served(variables, tmp_path):
    with environment_server(tmp_path, "tic_tac_toe", extra="", variables=variables) as (url, _):
        request = urllib.request.Request(f"{url}/v1/sessions", json.dumps({"reset": [{"index": 3}]}).encode())
        with urllib.request.urlopen(request, timeout=20) as reply:
            opened = json.load(reply)["sessions"][0]
    assert opened["result"]["observation"]["text"] == "...\n...\n..."


@pytest.fixture
def without_expert(variables, tmp_path):
    """Environment variables with which Python finds the game as `no_expert`, whose environment has no expert."""
    text = (SOURCE / "tic_tac_toe.py").read_text()
    (tmp_path / "no_expert.py").write_text(
        text.replace("    actions = SQUARES\n", "    actions = SQUARES\n    expert = False\n")
    )
    return variables | {"PYTHONPATH": os.pathsep.join([variables["PYTHONPATH"], str(tmp_path)])}


def up(folder, variables, text):
    (folder / "run.toml").write_text(text)
    command = ["arlarena.console", "up", "run.toml", "--run-dir", "out"]
    return forking_support.run(command, cwd=folder, env=variables, timeout=400)


@pytest.mark.slow  # every service checks its settings, 8 s; test_console_preflight.py has a short test
def test_cloning_without_an_expert_is_refused_before_anything_starts(without_expert, tmp_path):
    done = up(tmp_path, without_expert, CONFIG.replace("tic_tac_toe", "no_expert"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "[clone] records the environment's expert, and no_expert has no expert" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # a whole run with all its processes
@pytest.mark.timeout(400)
def test_it_is_trained_on_and_evaluated_without_an_expert(without_expert, tmp_path):
    text = CONFIG.replace("tic_tac_toe", "no_expert").replace("expert_splits", "# expert_splits")
    clone, trainer = text.index("[clone]"), text.index("[trainer]")
    done = up(
        tmp_path, without_expert, text[:clone] + text[trainer:].replace("steps = 1", 'steps = 1\nrecipe = "grpo"')
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (record,) = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert record["step"] == 1
    tokens = json.loads((tmp_path / "out" / "policy" / "tokenizer.json").read_text())["model"]["vocab"]
    assert {"<action>", "</action>", "1", "9"} < set(tokens)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["steps"] == 1


@pytest.mark.slow  # a whole run with all its processes
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["tic_tac_toe", "not_installed.game"])
def test_it_is_trained_on(variables, tmp_path, name):
    (tmp_path / "not_installed").mkdir()
    shutil.copy(SOURCE / "tic_tac_toe.py", tmp_path / "not_installed" / "game.py")
    variables = variables | {"PYTHONPATH": os.pathsep.join([variables["PYTHONPATH"], str(tmp_path)])}
    done = up(tmp_path, variables, CONFIG.replace("tic_tac_toe", name))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (record,) = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert record["step"] == 1
