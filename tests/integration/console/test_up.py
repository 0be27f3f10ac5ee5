"""`arlarena up` from end to end with stand-ins for the services (fake_services.py), a real broker and real signals."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import sys
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.console.up_support import CONFIG, Up, fake_services

# The tests start the command as a module, and so is it printed.
PROGRAM = f"{shlex.quote(sys.executable)} -m arlarena.console"


def summary(up: Up) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((up.run / "summary.json").read_text())
    return found


def assert_no_failure(said: str) -> None:
    for word in ("Traceback", "error", "failed", "interrupted"):
        assert word not in said, said


def assert_all_gone(up: Up) -> None:
    assert up.family, "the test never saw a running family"
    _, left = psutil.wait_procs(list(up.family), timeout=10)
    assert left == []


def test_a_whole_run(up: Up) -> None:
    ending = {"schema": 1, "ended_by": "max_minutes", "step": 6, "steps": 80, "limit": 9.0, "detail": ""}
    (up.flags / "ending").write_text(json.dumps(ending))
    code, said = up.up("--set", "trainer.recipe=grpo", "--set", "trainer.lr=1e-3", "--seed", "3", ARLARENA_SEED="7")
    assert code == 0, said
    found = summary(up)
    assert found["env"] == "sokoban"
    assert found["method"] == "grpo"
    assert found["seed"] == 3
    assert found["eval_set"]["n"] == 8
    assert (found["before"]["success"], found["before"]["ci95"]) == (pytest.approx(0.4), pytest.approx([0.3, 0.5]))
    assert found["after"]["success"] == pytest.approx(0.7)
    assert found["intervals_overlap"] is False
    assert found["steps"] == fake_services.STEPS
    assert found["groups"] == {"trained": 24, "filtered": 6, "stale": 0, "empty": 0, "skipped": 0, "dead": 0}
    assert found["wall_s"] > 0
    assert "60.0 to 80.0" in said
    assert said.count("Not comparable with published results: rooms of a stand-in") == 2  # before training, at the end
    assert found["data"]["official"] is False
    assert "evaluate after: done" in said
    assert "Traceback" not in said
    report = (up.run / "report.html").read_text()
    assert report.startswith("<!doctype html>")
    words = "ended by max_minutes = 9 after 6 of 80 steps"  # the stage, the summary and the report say it
    assert re.search(rf"train: done after .*, grpo, {words}, 6 groups filtered\n", said)
    assert f"Training: {words}" in said
    assert found["training"]["ended_by"] == "max_minutes"
    assert words in report
    for log in ("environment", "inference", "trainer", "rollout-0", "clone", "policy", "evaluate-after"):
        assert '"event":"launch"' in (up.run / "logs" / f"{log}.log").read_text().splitlines()[0]
    (demonstrations, validation) = up.started_as("rollout", "demonstrate")
    assert "4" in demonstrations["argv"]
    assert "3" in validation["argv"]
    written = tomllib.loads((up.run / "config.toml").read_text())
    assert written["trainer"]["recipe"] == "grpo"
    assert written["trainer"]["lr"] == 1e-3
    assert written["run"]["seed"] == 3
    assert written["clone"]["threads"] >= written["trainer"]["threads"] >= 1
    for service in ("env_server", "inference", "rollout", "trainer"):
        for record in up.started(service):
            assert str(Path("runs/test/config.toml")) in record["argv"]


def test_a_second_run_is_refused_unless_fresh_which_keeps_the_first(up: Up) -> None:
    assert up.up()[0] == 0
    code, said = up.up()
    assert code == 2
    assert "contains a finished run" in said
    assert "--fresh" in said
    code, said = up.up("--fresh", "--seed", "5")
    assert code == 0, said
    assert re.match(r"checking .*test\.toml and this machine …\nThe earlier run is kept in runs/test\.previous\n", said)
    assert summary(up)["seed"] == 5
    kept = json.loads((up.run.parent / "test.previous" / "summary.json").read_text())
    assert kept["seed"] == 0


def test_the_copied_configuration_works_from_another_folder(up: Up) -> None:
    (up.folder / "policy").mkdir()
    up.config.write_text(CONFIG + '[policy]\npath = "policy"\n')
    assert up.up("--set", "trainer.recipe=grpo", "--seed", "3")[0] == 0
    first, copy = summary(up), up.run / "config.toml"
    assert first["command"] == f"{PROGRAM} up {up.config} --seed 3 --set trainer.recipe=grpo"
    elsewhere = up.folder / "else" / "where"
    elsewhere.mkdir(parents=True)
    up.config, up.folder = copy, elsewhere
    code, said = up.up("--run-dir", "again")
    assert code == 0, said
    second = json.loads((elsewhere / "again" / "summary.json").read_text())
    assert [second[key] for key in ("env", "method", "seed")] == [first[key] for key in ("env", "method", "seed")]
    assert first["method"] == "grpo"
    code, said = up.up("--resume")
    assert code == 0, said
    assert str(up.run / "report.html") in said


# Slow for two of four, three seconds each: they are replaced by the same code.
@pytest.mark.parametrize(
    "victim",
    ["env_server", "trainer", *(pytest.param(name, marks=pytest.mark.slow) for name in ("inference", "rollout"))],
)
def test_a_killed_service_is_replaced_and_the_run_finishes(up: Up, victim: str) -> None:
    (up.flags / "train-on").write_text("yes")
    process = up.start("up", str(up.config))
    word = {"rollout": "worker", "trainer": "train"}.get(victim)
    found = (lambda: up.started_as(victim, word)) if word else (lambda: up.started(victim))
    up.until(lambda: up.steps() >= 2 and len(found()) == 1)
    os.kill(found()[0]["pid"], signal.SIGKILL)
    up.until(lambda: len(found()) == 2)
    (up.flags / "train-on").unlink()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    first, second = found()
    if victim == "trainer":
        assert "--resume" not in first["argv"]
        assert "--resume" in second["argv"]
        steps = [json.loads(line)["step"] for line in (up.run / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(set(steps))
    if victim in ("env_server", "inference"):
        assert second["argv"][second["argv"].index("--port") + 1] != "0"
    assert "SIGKILL" in said
    assert sum(summary(up)["restarts"].values()) == 1


def test_a_sick_service_is_replaced(up: Up) -> None:
    (up.flags / "train-on").write_text("yes")
    process = up.start("up", str(up.config))
    up.until(lambda: up.steps() >= 1)
    (up.flags / "sick-env_server").write_text("yes")
    up.until(lambda: len(up.started("env_server")) == 2)
    (up.flags / "sick-env_server").unlink()
    (up.flags / "train-on").unlink()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "answered 503" in said


def test_a_killed_broker_comes_back(up: Up) -> None:
    (up.flags / "train-on").write_text("yes")
    process = up.start("up", str(up.config))
    up.until(lambda: up.steps() >= 1)
    (broker,) = up.brokers()
    broker.kill()
    up.until(lambda: any(other != broker for other in up.brokers()))
    (up.flags / "train-on").unlink()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert summary(up)["restarts"] == {"broker": 1}


# Slow for one of two: two runs take four seconds, and Ctrl+C has a test for each stage.
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_stops_everything_and_resume_goes_on(up: Up, number: int, code: int) -> None:
    (up.flags / "train-on").write_text("yes")
    process = up.start("up", str(up.config))
    up.until(lambda: up.steps() >= 2 and bool(up.started_as("rollout", "worker")))
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code, said
    name = "SIGINT (Ctrl-C)" if number == signal.SIGINT else "SIGTERM"
    command = f"{PROGRAM} up {Path('runs/test/config.toml')} --resume"
    assert said.splitlines()[-1] == f"stopped by {name}; to resume: {command}"
    assert "train: stopped after" in said
    assert_no_failure(said)
    assert_all_gone(up)
    if number == signal.SIGTERM:
        return
    (up.flags / "train-on").unlink()
    resumed = up.start(*shlex.split(command)[3:])
    said, _ = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, said
    assert len(up.started_as("trainer", "clone")) == 1  # a stage that was done is not done again
    assert "--resume" in up.started_as("trainer", "train")[-1]["argv"]
    assert summary(up)["steps"] >= fake_services.STEPS


# Slow but for one: each is a run of its own, 2 s or more.
SLOW_STAGES = ("evaluate before", "environment", "policy", "demonstrations", "clone", "inference", "evaluate after")


@pytest.mark.parametrize("stage", ["train", *(pytest.param(stage, marks=pytest.mark.slow) for stage in SLOW_STAGES)])
def test_ctrl_c_stops_any_stage(up: Up, stage: str) -> None:
    (up.flags / f"hold-{stage}").touch()
    process = up.start("up", str(up.config))
    up.until(lambda: (up.flags / f"held-{stage}").exists())
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"{stage}: stopped after" in said
    assert f"to resume: {PROGRAM} up" in said
    assert_no_failure(said)
    assert_all_gone(up)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_checks_says_that_nothing_was_started(up: Up, number: int) -> None:
    (up.flags / "hold-check").touch()
    process = up.start("up", str(up.config))
    up.until(lambda: (up.flags / "held-check").exists())
    os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert said.splitlines()[-1].startswith(f"stopped by {signal.Signals(number).name}")
    assert said.endswith("; nothing was started\n")
    assert_no_failure(said)
    assert not up.run.exists()


def test_a_second_ctrl_c_does_not_wait_for_processes(up: Up) -> None:
    for name in ("hold-train", "stubborn"):
        (up.flags / name).touch()
    process = up.start("up", str(up.config), "--set", "console.stop_timeout_s=300")
    up.until(lambda: (up.flags / "held-train").exists() and bool(up.started_as("rollout", "worker")))
    os.killpg(process.pid, signal.SIGINT)
    up.until((up.flags / "asked-to-stop").exists)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "restart" not in said
    assert_no_failure(said)
    assert_all_gone(up)


def test_kill_9_of_the_launcher_leaves_nothing(up: Up) -> None:
    (up.flags / "train-on").write_text("yes")
    process = up.start("up", str(up.config), "--set", "console.stop_timeout_s=0.5")
    up.until(lambda: up.steps() >= 2 and bool(up.started_as("rollout", "worker")))
    assert len(up.brokers()) == 1
    process.kill()
    process.wait()
    assert_all_gone(up)


def test_a_failed_stage_says_why_in_one_line_and_resume_goes_on_with_the_same_experiment(up: Up) -> None:
    (up.flags / "clone-fails").write_text("the disk is full")
    code, said = up.up()
    assert code == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: clone ended (exit status 1): clone_failed reason=the disk is full")
    assert str(Path("runs/test/logs/clone.log")) in last
    assert "Traceback" not in said
    report = up.start("report", str(up.run))
    said, _ = report.communicate(timeout=30)
    assert report.returncode == 0, said
    assert "has not finished" in (up.run / "report.html").read_text()
    (up.flags / "clone-fails").unlink()
    code, said = up.up("--resume", "--set", "trainer.recipe=grpo")
    assert code == 2
    assert "trainer.recipe" in said
    assert up.up("--resume", "--set", "console.restarts=2")[0] == 0


def test_an_unknown_key_stops_it_before_anything_starts(up: Up) -> None:
    up.config.write_text(CONFIG.replace("recipe =", "recipee ="))
    code, said = up.up()
    assert code == 2
    assert f"error: {up.config}: [trainer] unknown key 'recipee'; did you mean 'recipe'?" in said
    assert "Traceback" not in said
    assert not up.run.exists()
    assert up.started("env_server") == []


def test_all_objections_come_at_once(up: Up) -> None:
    up.config.write_text(CONFIG.replace("recipe =", "recipee =").replace("backoff_s", "back_off_s"))
    code, said = up.up()
    assert code == 2
    assert "[console] unknown key 'back_off_s'; did you mean 'backoff_s'?" in said
    assert "unknown key 'recipee'" in said
    assert "Traceback" not in said
    assert not up.run.exists()


def test_no_redis_at_the_given_address(up: Up) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{closed.getsockname()[1]}/0"
        code, said = up.up(REDIS_URL=url)
    assert code == 2
    assert not up.run.exists()
    assert f"no Redis at {url}" in said
    assert "Traceback" not in said


def test_a_taken_port_is_named(up: Up) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = up.up("--set", f"inference.port={port}")
    assert code == 3
    assert f"port {port} of [inference] is in use by another program" in said
    assert not up.run.exists()


def test_final_weights_that_a_server_lost_are_loaded_before_the_last_evaluation(up: Up) -> None:
    (up.flags / "forgetful").write_text("a restarted server that nobody pushed to")
    code, said = up.up()
    assert code == 0, said
    assert "does not serve the final weights" in said
    assert len(up.started("inference")) == 2


def test_there_is_no_report_of_what_is_no_run(up: Up) -> None:
    process = up.start("report", str(up.folder))
    assert "is not a run directory of ARLArena" in process.communicate(timeout=30)[0]
    assert process.returncode == 2
