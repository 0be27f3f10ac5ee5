"""One run in containers: it learns, it survives a kill of each service, and only the necessary ports are open."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from sandbox_attacks import attacks
from support.console.lineage import check_lineage
from support.containers.stack import READY_TIMEOUT_S, ROOT, SERVICES, STEPS, Stack

SCAN = (Path(__file__).parent / "scan.py").read_text()
ALLOWED = {
    "sokoban": [8000], "alfworld": [8000], "webshop": [8000], "tir-math": [8000],
    "inference": [8100], "redis": [6379], "trainer": [9100], "run": [],
}  # fmt: skip
# Sandboxed programs must not reach any of these.
OUTSIDE = ("sokoban", "inference", "redis", "1.1.1.1", "host.docker.internal")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(4000)]  # the images are built, and a policy is trained


def test_all_services_become_healthy(stack: Stack) -> None:
    for service in set(SERVICES) - {"run"}:
        assert stack.is_healthy(service), service
    assert stack.state("run")["Running"]


def test_a_worker_reaches_only_the_ports_that_it_needs(stack: Stack) -> None:
    stack.until(lambda: stack.steps() >= 1, "step 1")  # before, not all services have started
    assert json.loads(stack.python("rollout", SCAN, "1", "65535", *ALLOWED, timeout_s=1800)) == ALLOWED


def test_the_server_of_programs_reaches_only_metrics(stack: Stack) -> None:
    found = json.loads(stack.python("tir-math", SCAN, "1", "10000", "rollout", "trainer", "run"))
    assert found == {"rollout": [9100], "trainer": [9100], "run": []}
    found = json.loads(stack.python("tir-math", SCAN, "440", "445", *OUTSIDE))
    assert {tuple(ports or ()) for ports in found.values()} == {()}
    gateways = stack.gateways("tir-math")
    assert gateways
    found = json.loads(stack.python("tir-math", SCAN, "1", "2000", *gateways))
    assert {tuple(ports or ()) for ports in found.values()} == {()}


def test_only_the_service_run_reaches_other_hosts(stack: Stack) -> None:
    for service in set(SERVICES) - {"run", "redis"}:  # the image of Redis may have no Python
        found = json.loads(stack.python(service, SCAN, "440", "445", "1.1.1.1", "8.8.8.8"))
        assert found == {"1.1.1.1": [], "8.8.8.8": []}, service


def test_only_api_ports_are_open_on_the_host_and_only_on_loopback(stack: Stack) -> None:
    rows = [json.loads(line) for line in stack.compose("ps", "--format", "json").splitlines()]
    open_ports = {
        (row["Service"], publisher["URL"], publisher["TargetPort"])
        for row in rows
        for publisher in row["Publishers"] or ()
        if publisher["PublishedPort"]
    }
    assert open_ports == {
        ("sokoban", "127.0.0.1", 8000), ("alfworld", "127.0.0.1", 8000),
        ("webshop", "127.0.0.1", 8000), ("inference", "127.0.0.1", 8100), ("page", "127.0.0.1", 8400),
    }  # fmt: skip


def kill_and_start(stack: Stack, service: str) -> None:
    stack.compose("kill", service)
    assert not stack.state(service)["Running"]
    stack.compose("start", service)
    stack.until(lambda: stack.is_healthy(service), f"{service} is healthy again", READY_TIMEOUT_S)


def test_a_kill_of_each_service_in_turn_loses_no_group_and_the_policy_improves(stack: Stack, tmp_path: Path) -> None:
    for service in ("rollout", "sokoban", "inference", "trainer", "redis", "run"):
        reached = stack.steps() + 1
        stack.until(lambda reached=reached: stack.steps() >= reached, f"step {reached}")
        assert stack.steps() < STEPS, "training ended before all services were killed"
        kill_and_start(stack, service)
    for service in ("run", "trainer", "rollout"):  # they end by themselves; the servers keep running
        stack.until(lambda service=service: stack.state(service)["Status"] == "exited", f"the end of {service}")
        assert stack.state(service)["ExitCode"] == 0, stack.compose("logs", service)[-3000:]
    subprocess.run(
        ["docker", "compose", "cp", "run:/data/run", str(tmp_path)], cwd=ROOT, env=stack.variables, check=True
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["after"]["success"] > summary["before"]["success"] + 0.05
    counts = check_lineage(tmp_path / "run", STEPS)
    assert {outcome: counts[outcome] for outcome in summary["groups"]} == summary["groups"]
    assert counts["dead"] == 0


def test_no_attack_escapes_from_the_sandbox_of_tir_math_in_its_container(stack: Stack) -> None:
    mount = f"{ROOT / 'tests'}:/tests:ro"
    command = ("run", "--rm", "--no-deps", "-T", "--volume", mount, "--env", "PYTHONPATH=/tests")
    words = ("--entrypoint", "python", "tir-math", "-m", "sandbox_attacks")
    report = json.loads(stack.compose(*command, *words, timeout_s=1800))
    assert report["attacks"] == len(attacks())
    assert report["breaches"] == {}
    assert report["user"] == 10001


@pytest.mark.parametrize("service", ["alfworld", "webshop", "tir-math", "page"])
def test_a_server_that_the_run_does_not_use_starts_again_after_a_kill(stack: Stack, service: str) -> None:
    kill_and_start(stack, service)
