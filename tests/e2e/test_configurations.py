"""Every configuration in configs/ runs all its stages on a small amount of data in the official formats, over more than
one epoch, is killed and resumed once, and accounts for every group.

`configuration_overrides.toml` lists what is changed of each.
"""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import psutil
import pytest

from arlarena.environments.alfworld.files.export import export
from arlarena.environments.alfworld.options import AlfworldOptions
from arlarena.proto.task_order import TaskOrder

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.toml"))
OVERRIDES = tomllib.loads(Path(__file__).with_name("configuration_overrides.toml").read_text())
# Which tables may be changed, and of the trainer's which keys.
MAY_CHANGE = {"policy", "inference", "evaluation", "clone", "console"}
MAY_CHANGE_OF_TRAINER = {
    "steps", "groups_per_step", "group_size", "minibatch_groups", "max_response_tokens", "push_transport",
}  # fmt: skip
TRAIN_TASKS = 3
PATIENCE_S = 400


def overrides_of(name):
    """The overrides of one configuration, as `table.key` to value."""
    chosen = OVERRIDES["files"][name]
    merged = {key: value for part in chosen["use"] for key, value in OVERRIDES[part].items()}
    return {key: value for key, value in merged.items() if key not in chosen.get("without", [])}


def test_every_configuration_is_listed_and_keeps_what_makes_the_experiment():
    assert set(OVERRIDES["files"]) == {path.stem for path in CONFIGS}
    for path in CONFIGS:
        for key in overrides_of(path.stem):
            table, _, name = key.partition(".")
            assert table in MAY_CHANGE or (table == "trainer" and name in MAY_CHANGE_OF_TRAINER), key
            assert "split" not in name


@pytest.fixture(scope="session")
def alfworld_data(tmp_path_factory):
    """Games in the layout of the official ones."""
    out = tmp_path_factory.mktemp("alfworld") / "json_2.1.1"
    options = AlfworldOptions(receptacles=6, things=(6, 8))
    for split, count in (("train", TRAIN_TASKS), ("valid_seen", 3), ("valid_unseen", 3)):
        for index in range(count):
            export(out, split, index, options)
    return out.parent


@pytest.fixture(scope="session")
def tir_math_data(tmp_path_factory):
    """Problems in the fields of SimpleRL's and AIME's files."""
    out = tmp_path_factory.mktemp("math")
    for name, count in (("train", TRAIN_TASKS), ("aime24", 3), ("aime25", 3)):
        problems = [
            {"id": i, "problem": f"What is ${i + 2} \\times {len(name)}$?", "answer": str((i + 2) * len(name)),
             "source": name, "level": 3, "subject": "Prealgebra"}
            for i in range(count)
        ]  # fmt: skip
        (out / f"{name}.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    return out


def policy_for(environment, folder):
    """A tiny policy with the words of the environment's tiny configuration."""
    tables = tomllib.loads((REPOSITORY / f"configs/{environment.replace('_', '-')}-tiny.toml").read_text())
    words = json.dumps(tables["policy"]["tiny"]["words"], ensure_ascii=False)
    config = folder / "policy.toml"
    config.write_text(
        "[policy.tiny]\nhidden = 32\nlayers = 1\nheads = 2\nkv_heads = 1\nhead_dim = 16\nffn = 32\n"
        f"max_positions = 8192\nwords = {words}\n"
    )
    command = [sys.executable, "-m", "arlarena.trainer", "tiny", "--config", config, "--out", folder / "policy"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "policy"


def trainer_of(launcher):
    for child in psutil.Process(launcher.pid).children(recursive=True):
        try:
            line = child.cmdline()
        except psutil.Error:
            continue
        if "arlarena.trainer" in line and "train" in line:
            return child
    return None


def run_and_kill_the_trainer_once(launcher, run):
    """Wait for the end of the run; after its first step the trainer is killed."""
    deadline, killed = time.monotonic() + PATIENCE_S, False
    while launcher.poll() is None:
        assert time.monotonic() < deadline, "the run does not end"
        metrics = run / "metrics.jsonl"
        if not killed and metrics.exists() and metrics.read_text().count("\n"):
            trainer = trainer_of(launcher)
            if trainer is not None:
                trainer.send_signal(signal.SIGKILL)
                killed = True
        time.sleep(0.02)
    return killed


def played(run):
    """Task by group, as the workers recorded them."""
    found = {}
    for log in (run / "logs").glob("rollout-*"):
        for line in log.read_text().splitlines():
            if '"group_done"' in line:
                record = json.loads(line)
                found[record["group"]] = record["task"]
    return found


# Slow: each configuration starts all services twice over and plays whole episodes of its full horizon.
@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(PATIENCE_S + 60)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_runs_all_its_stages_and_is_killed_and_resumed_once(path, tmp_path, alfworld_data, tir_math_data):
    tables, run = tomllib.loads(path.read_text()), tmp_path / "run"
    environment = tables["environment"]["name"]
    given = overrides_of(path.stem)
    if "policy.path" in given:
        given["policy.path"] = str(policy_for(environment, tmp_path))
    made = environment == "sokoban" or path.stem.endswith("-tiny")  # plays tasks that its options describe
    variables = {key: value for key, value in os.environ.items() if key not in ("REDIS_URL", "ARLARENA_SEED")}
    if not made:
        variables |= {"ALFWORLD_DATA": str(alfworld_data), "TIR_MATH_DATA": str(tir_math_data)}
    command = [sys.executable, "-m", "arlarena.console", "up", path, "--run-dir", run]
    for key, value in given.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    with (tmp_path / "up.log").open("w") as log:
        launcher = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=variables)
    try:
        killed = run_and_kill_the_trainer_once(launcher, run)
    finally:
        launcher.terminate()
        launcher.wait(60)
    assert launcher.returncode == 0, (tmp_path / "up.log").read_text()[-3000:]
    assert killed

    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 3
    newest = sorted(marker.parent for marker in (run / "checkpoints").glob("step-*/COMMITTED"))[-1]
    state = json.loads((newest / "state.json").read_text())
    ledger = state["ledger"]
    assert ledger["open"] == {}
    assert set(ledger["lineage"]) == {f"g{index:06d}" for index in range(ledger["next_index"])}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]

    split = tables["trainer"].get("task_split", "train")
    order = TaskOrder(split, None if made else TRAIN_TASKS, tables["run"]["seed"], 1_000_000)
    tasks = played(run)
    settled = [group for group, (end, _) in ledger["lineage"].items() if end != "unused"]
    assert settled
    for group, task in tasks.items():
        if not made or environment == "sokoban":
            assert int(task.rpartition("/")[2]) == order.index(int(group[1:])), (group, task)
    if not made:
        assert len(settled) >= 2 * TRAIN_TASKS, "the run did not draw two epochs"
