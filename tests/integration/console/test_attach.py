"""`arlarena up --attach` and `arlarena join` with stand-ins for the services (fake_services.py) and real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.console.up_support import TESTS, Up
from support.processes.forking_support import Forked

ENDING = {"schema": 1, "ended_by": "steps", "step": 6, "steps": 6, "limit": None, "detail": ""}
TOKEN = "admin-token-of-the-test"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """An attached run, and the processes that a cluster would start in containers of their own."""

    def __init__(self, up: Up) -> None:
        self.up, self.ports = up, {"environment": free_port(), "inference": free_port()}
        (up.flags / "ending").write_text(json.dumps(ENDING))
        secret = up.folder / "admin-token"
        secret.write_text(TOKEN + "\n")
        self.servers: list[subprocess.Popen[bytes]] = []
        self.variables = {
            "ARLARENA_ENVIRONMENT_URL": f"http://127.0.0.1:{self.ports['environment']}",
            "ARLARENA_INFERENCE_URL": f"http://127.0.0.1:{self.ports['inference']}",
            "ARLARENA_REDIS_URL": "redis://worker@redis.invalid:6379/0",
            "REDIS_PASSWORD": "password-of-redis",
            "ARLARENA_INFERENCE_ADMIN_TOKEN_FILE": str(secret),
            "TMPDIR": str(up.folder),
        }

    def environment_server(self) -> None:
        server = ("arlarena.env_server", "sokoban", "--host", "127.0.0.1", "--port", str(self.ports["environment"]))
        path = os.pathsep.join([str(self.up.fakes), str(TESTS)])
        self.servers.append(
            subprocess.Popen(
                [sys.executable, "-m", *server],
                env=dict(os.environ) | {"PYTHONPATH": path},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def join(self, service: str, **changes: str) -> Forked:
        port = ("--port", str(self.ports["inference"]), "--host", "127.0.0.1") if service == "inference" else ()
        return self.up.start("join", service, str(self.up.run), *port, **(self.variables | changes))

    def run(self) -> Forked:
        return self.up.start("up", str(self.up.config), "--attach", **self.variables)


@pytest.fixture
def cluster(up: Up) -> Iterator[Cluster]:
    started = Cluster(up)
    yield started
    for server in started.servers:
        server.kill()
        server.wait()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.02)


def output(process: Forked) -> str:
    said, _ = process.communicate(timeout=60)
    return str(said)


def test_a_run_starts_no_service_and_each_service_waits_for_its_stage(cluster: Cluster) -> None:
    up = cluster.up
    (up.flags / "hold-clone").touch()
    joined = {service: cluster.join(service) for service in ("inference", "rollout", "trainer")}
    cluster.environment_server()
    run = cluster.run()
    until(lambda: (up.flags / "held-clone").exists())
    assert {record["service"] for record in map(json.loads, (up.flags / "started").read_text().splitlines())} == {
        "env_server", "rollout", "trainer",
    }  # fmt: skip
    assert up.started("inference") == up.started_as("trainer", "train") == up.started_as("rollout", "worker") == []
    (up.flags / "hold-clone").unlink()
    said = output(run)
    assert run.returncode == 0, said
    assert "finished after all 6 steps" in said
    assert json.loads((up.run / "summary.json").read_text())["after"]["success"] == pytest.approx(0.7)
    assert joined["trainer"].wait(20) == 0
    assert [record["pid"] for record in up.started("inference")] == [joined["inference"].pid]
    assert [record["pid"] for record in up.started_as("rollout", "worker")] == [joined["rollout"].pid]
    assert cluster.join("trainer").wait(30) == 0  # nothing to do after the end of training
    assert len(up.started_as("trainer", "train")) == 1


def test_a_killed_trainer_joins_again_and_resumes_while_the_run_waits(cluster: Cluster) -> None:
    up = cluster.up
    (up.flags / "train-on").touch()
    cluster.environment_server()
    cluster.join("inference")
    trainer, run = cluster.join("trainer"), cluster.run()
    until(lambda: up.steps() >= 2)
    trainer.send_signal(signal.SIGKILL)
    trainer.wait(10)
    (up.flags / "train-on").unlink()
    again = cluster.join("trainer")
    said = output(run)
    assert run.returncode == 0, said
    assert again.wait(20) == 0
    first, second = up.started_as("trainer", "train")
    assert "--resume" not in first["argv"]
    assert "--resume" in second["argv"]


def test_a_restarted_run_continues_with_the_unfinished_stage(cluster: Cluster) -> None:
    up = cluster.up
    (up.flags / "hold-clone").touch()
    cluster.environment_server()
    cluster.join("inference")
    cluster.join("trainer")
    killed = cluster.run()
    until(lambda: (up.flags / "held-clone").exists())
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    (up.flags / "hold-clone").unlink()
    run = cluster.run()
    said = output(run)
    assert run.returncode == 0, said
    assert len(up.started_as("trainer", "tiny")) == 1
    assert len(up.started_as("trainer", "clone")) == 2


def test_an_error_of_the_trainer_ends_the_run_if_the_trainer_does_not_start_again(cluster: Cluster) -> None:
    up = cluster.up
    (up.flags / "ending").write_text(json.dumps(ENDING | {"ended_by": "error", "step": 3, "detail": "no groups"}))
    up.config.write_text(up.config.read_text().replace("[console]\n", "[console]\nready_timeout_s = 4.0\n"))
    cluster.environment_server()
    cluster.join("inference")
    cluster.join("trainer")
    run = cluster.run()
    said = output(run)
    assert run.returncode == 1
    assert "the trainer has not started again: ended by an error after 3 of 6 steps: no groups" in said


@pytest.mark.parametrize("service", ["inference", "rollout", "trainer"])
def test_a_waiting_service_says_what_it_waits_for_and_ends_on_sigterm(service: str, cluster: Cluster) -> None:
    process = cluster.join(service)
    waiting = cluster.up.folder / "arlarena-waiting"
    until(waiting.exists)
    process.terminate()
    said = output(process)
    assert process.returncode == 128 + signal.SIGTERM
    stage = "clone" if service == "inference" else "evaluate before"
    assert json.loads(said.splitlines()[0])["until"] == f"stage '{stage}' is done"


def test_secrets_reach_a_service_in_its_environment_only(cluster: Cluster) -> None:
    up = cluster.up
    (up.flags / "hold-train").touch()
    cluster.environment_server()
    cluster.join("inference")
    trainer, worker = cluster.join("trainer"), cluster.join("rollout")
    cluster.run()
    until(lambda: bool(up.started_as("trainer", "train") and up.started_as("rollout", "worker")))
    for process, secrets in ((trainer, (TOKEN, "password-of-redis")), (worker, ("password-of-redis",))):
        variables, line = (Path(f"/proc/{process.pid}/{name}").read_text() for name in ("environ", "cmdline"))
        for secret in secrets:
            assert secret in variables
            assert secret not in line
    assert TOKEN not in Path(f"/proc/{worker.pid}/environ").read_text()


@pytest.mark.parametrize(
    ("arguments", "missing", "said"),
    [
        (["join", "trainer", "RUN"], "ARLARENA_REDIS_URL", "arlarena join trainer: set ARLARENA_REDIS_URL"),
        (["join", "inference", "RUN"], "ARLARENA_INFERENCE_ADMIN_TOKEN_FILE", "_ADMIN_TOKEN (or ARLARENA_INFERENCE"),
        (["up", "CONFIG", "--attach"], "ARLARENA_ENVIRONMENT_URL", "address of the environment server"),
        (["up", "CONFIG", "--attach", "--fresh"], "HOME", "--attach and --fresh exclude each other"),
    ],
)
def test_a_missing_address_or_token_is_reported_at_once(
    arguments: list[str], missing: str, said: str, cluster: Cluster
) -> None:
    up = cluster.up
    places = {"RUN": str(up.run), "CONFIG": str(up.config)}
    process = up.start(*[places.get(word, word) for word in arguments], **(cluster.variables | {missing: ""}))
    assert said in output(process)
    assert process.returncode == 2
    assert not up.run.exists()


def test_the_environment_server_must_play_the_environment_of_the_run(cluster: Cluster) -> None:
    up = cluster.up
    up.config.write_text(up.config.read_text().replace('name = "sokoban"', 'name = "guess"'))
    cluster.environment_server()
    run = cluster.run()
    said = output(run)
    assert run.returncode == 2
    assert "[environment] name = 'guess', but the server at" in said


def test_doctor_checks_the_given_services(cluster: Cluster) -> None:
    up = cluster.up
    cluster.environment_server()
    url = cluster.variables["ARLARENA_ENVIRONMENT_URL"]
    until(lambda: bool(up.started("env_server")))
    process = up.start("doctor", "--attach", **cluster.variables)
    said = output(process)
    assert process.returncode == 1
    lines = {line.split()[1]: line for line in said.splitlines()}
    assert f"sokoban 1 at {url}" in lines["environ."] or "GET /health failed" in lines["environ."]
    assert "before the end of stage `clone`, this is normal" in lines["policy"]
    assert "no Redis at redis://worker:***@redis.invalid:6379/0" in lines["broker"]
    assert "password-of-redis" not in said
