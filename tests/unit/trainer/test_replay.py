"""`replay`: recorded groups through any method, offline, with the figures of an independent step."""

import copy
import json
import subprocess
import sys

import pytest

from arlarena.proto.trajectory import PolicyVersion, write_groups
from arlarena.trainer.learner import Learner
from arlarena.trainer.model import load_policy
from arlarena.trainer.objectives import recipe
from arlarena.trainer.objectives.cells import CELLS
from arlarena.trainer.scoring import Freshness, rows_of, score
from arlarena.trainer.settings import TrainerSettings

NOW = PolicyVersion("run", 7, "now")


@pytest.fixture
def recorded(make_group, tmp_path):
    groups = [make_group("a", [True, False, True], NOW), make_group("b", [False, False, False], NOW)]
    path = tmp_path / "step-000007.msgpack"
    write_groups(path, groups)
    return path, groups


def run(*arguments):
    command = [sys.executable, "-m", "arlarena.trainer", "replay", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_figures_are_those_of_a_step(recorded, tiny_directory):
    path, groups = recorded
    done = run(path, "--model", tiny_directory, "--recipe", "sampo", "--recipe", "grpo", "--json")
    assert done.returncode == 0, done.stderr
    sampo, grpo = json.loads(done.stdout)
    assert (sampo["groups"], sampo["groups_kept"], grpo["groups_kept"]) == (2, 1, 2)  # no success: filtered
    learner = Learner(load_policy(tiny_directory), None, recipe("grpo"), TrainerSettings())
    scored = score(recipe("grpo"), groups, Freshness(0, 0, {"now": 0}), invalid_penalty=0.1, max_response_tokens=512)
    before = copy.deepcopy(learner.weights())
    metrics = learner.update([rows_of(scored, "now")], rate=0.0)
    for name in ("loss", "grad_norm", "outside", "clip_negative_low", "entropy", "ratio_mean", f"kl_share/{CELLS[0]}"):
        assert grpo[name] == pytest.approx(metrics[name], rel=1e-6), name
    assert all(before[key].equal(value) for key, value in learner.weights().items())  # nothing is trained
    assert sum(grpo[f"kl_share/{cell}"] for cell in CELLS) == pytest.approx(1.0)


def test_the_table_has_a_column_for_each_method(recorded, tiny_directory):
    path, _ = recorded
    done = run(path, "--model", tiny_directory, "--recipe", "gspo", "--recipe", "cispo_sm", "--set", "clip_high=0.3")
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["gspo", "cispo_sm"]
    shown = {line.split()[0]: line.split()[1:] for line in lines}
    assert {"loss", "grad_norm", "clip_negative_low", f"kl_share/{CELLS[-1]}"} <= shown.keys()
    assert shown["rows_masked"][0] == "-"  # gspo has no mask
    assert float(shown["grad_norm"][0]) > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--recipe", "sampoo"], "did you mean 'sampo"),
        (["--set", "clip_hihg=0.3"], "did you mean 'clip_high'"),
        (["--set", "clip_high"], "give CHOICE=VALUE"),
        (["--set", "ratio_level=word"], "ratio_level = 'word'"),
    ],
)
def test_mistakes_are_told_in_one_line(recorded, tiny_directory, arguments, says):
    done = run(recorded[0], "--model", tiny_directory, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_files_that_are_no_groups(tmp_path, tiny_directory):
    (tmp_path / "no").write_bytes(b"text")
    for path in (tmp_path / "absent", tmp_path / "no"):
        done = run(path, "--model", tiny_directory)
        assert done.returncode == 2
        assert str(path) in done.stderr
