"""`arlarena up` with every service as a process of its own: it learns, and it survives kill -9 of each of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from support.console.lineage import check_lineage

CONFIG = Path(__file__).parent / "short.toml"
PATIENCE_S = 420


def up(directory, *overrides):
    command = [sys.executable, "-m", "arlarena.console", "up", str(CONFIG), "--run-dir", str(directory)]
    for override in overrides:
        command += ["--set", override]
    environment = {key: value for key, value in os.environ.items() if key not in ("REDIS_URL", "ARLARENA_SEED")}
    log = (directory.parent / "up.log").open("w")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def steps_done(directory):
    metrics = directory / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def wait_for(condition, launcher, what):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert launcher.poll() is None, f"the run ended with {launcher.returncode} before {what}"
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def service(launcher, *words):
    """The process of the run whose command line has all of `words`."""
    for child in psutil.Process(launcher.pid).children(recursive=True):
        try:
            line = child.cmdline()
        except psutil.Error:
            continue
        if all(any(word == part for part in line) for word in words):
            return child
    return None


def finish(launcher, directory):
    try:
        code = launcher.wait(timeout=PATIENCE_S)
    finally:
        if launcher.poll() is None:
            launcher.kill()
    assert code == 0, (directory.parent / "up.log").read_text()[-3000:]
    return json.loads((directory / "summary.json").read_text())


@pytest.mark.processes
@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.slow  # all services, two steps; test_rollout_processes.py and test_endings.py have the halves
def test_two_steps_of_learning_account_for_every_group(tmp_path):
    """The same pipeline as below, for as long as it takes to see that it is whole."""
    directory, steps = tmp_path / "run", 2
    overrides = (
        *("policy.tiny.layers=2", "policy.tiny.hidden=64", "clone.demonstrations=24", "clone.validation=8"),
        *("clone.max_epochs=1", "trainer.groups_per_step=4", "trainer.minibatch_groups=2", f"trainer.steps={steps}"),
        *("trainer.recipe_overrides.filter=none", "evaluation.count=8", "evaluation.episodes=1"),
    )
    summary = finish(up(directory, *overrides), directory)
    counts = check_lineage(directory, steps)
    assert {outcome: counts[outcome] for outcome in summary["groups"]} == summary["groups"]
    assert set(counts) <= {*summary["groups"], "unused"}  # on their way when training ended
    assert counts["trained"] > 0
    assert summary["after"]["errors"] == 0
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert max(record["mismatch_max"] for record in records) < 1e-4
    assert max(record["grad_norm"] for record in records) > 0
    published = sorted((directory / "weights").glob("v*/model.safetensors"))
    first, last = load_file(published[0]), load_file(published[-1])
    assert any(not value.equal(last[key]) for key, value in first.items())
    assert "<svg" in (directory / "report.html").read_text()


# Slow: a policy that has learnt something that can be measured takes fourteen steps and 256 rooms, two minutes.
@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(PATIENCE_S + 60)
def test_a_short_run_learns_and_accounts_for_every_group(tmp_path):
    directory = tmp_path / "run"
    summary = finish(up(directory), directory)
    counts = check_lineage(directory, steps=14)
    assert {outcome: counts[outcome] for outcome in summary["groups"]} == summary["groups"]
    assert set(counts) <= {*summary["groups"], "unused"}  # on their way when training ended
    before, after = summary["before"], summary["after"]
    assert summary["eval_set"]["n"] == 256
    # A first step of learning, several standard errors wide; `make verify PART=demo` is the proof at full size.
    assert after["success"] > before["success"] + 0.05, (before, after)
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert max(record["mismatch_max"] for record in records) < 1e-4
    assert all(record["mismatch_tokens"] > 0 for record in records if record["age_max"] == 0)
    assert "<svg" in (directory / "report.html").read_text()


VICTIMS = {
    "rollout worker": ("arlarena.rollout", "worker"),
    "environment server": ("arlarena.env_server",),
    "inference": ("arlarena.inference",),
    "trainer": ("arlarena.trainer", "train"),
}


# Slow: one and a half minutes for twelve steps and four restarts. `make test` kills each service where it is tested by
# itself: the worker and both servers in integration/rollout, the trainer in integration/trainer.
@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(PATIENCE_S + 60)
def test_kill_9_of_every_service_in_turn_loses_and_doubles_nothing(tmp_path):
    directory = tmp_path / "run"
    steps = 12
    small = ("evaluation.count=32", "clone.demonstrations=60", "trainer.groups_per_step=8")
    launcher = up(directory, *small, f"trainer.steps={steps}")
    try:
        for number, (name, words) in enumerate(VICTIMS.items()):
            reached = 2 * number + 1
            wait_for(lambda reached=reached: steps_done(directory) >= reached, launcher, f"step {reached}")
            victim = service(launcher, *words)
            assert victim is not None, f"no {name} is running"
            victim.send_signal(signal.SIGKILL)
            wait_for(
                lambda victim=victim, words=words: (new := service(launcher, *words)) is not None and new != victim,
                launcher,
                f"another {name}",
            )
        finish(launcher, directory)
    finally:
        if launcher.poll() is None:
            launcher.kill()
    counts = check_lineage(directory, steps)
    assert counts["trained"] > 0
    assert counts["dead"] == 0
