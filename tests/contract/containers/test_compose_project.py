"""The helpers of tests and benchmarks that deploy compose.yaml use no port, secret or name of a user's deployment."""

import re
from pathlib import Path

from support.containers.stack import ROOT, Stack

from benchmarks.chaos.compose_kills import CONFIG, SERVICES
from benchmarks.support.compose_project import ComposeProject

PORTS = dict(re.findall(r"127\.0\.0\.1:\$\{(ARLARENA_\w+_PORT):-(\d+)\}", (ROOT / "compose.yaml").read_text()))


def test_a_deployment_of_a_benchmark_has_secrets_and_ports_of_its_own(tmp_path: Path) -> None:
    variables = ComposeProject("test", tmp_path, CONFIG).variables
    assert Path(variables["ARLARENA_SECRETS"]) == tmp_path / "secrets"
    assert (tmp_path / "secrets" / "redis_users").read_text().count("user ") >= 4
    assert len(PORTS) == 6
    assert PORTS.keys() <= variables.keys()
    own = {variables[name] for name in PORTS}
    assert len(own) == len(PORTS)
    assert own.isdisjoint(PORTS.values())


def test_the_deployment_of_the_tests_shares_no_port_with_those_of_benchmarks_and_users(tmp_path: Path) -> None:
    tests = Stack(tmp_path / "tests").variables
    (tmp_path / "benchmark").mkdir()
    benchmark = ComposeProject("test", tmp_path / "benchmark", CONFIG).variables
    used = {tests[name] for name in PORTS if name in tests}
    assert len(used) == len(PORTS) - 1  # the profile `observe` is not started
    assert used.isdisjoint({*PORTS.values(), *(benchmark[name] for name in PORTS)})


def test_containers_of_all_services_are_killed() -> None:
    profile = {"sokoban", "alfworld", "webshop", "tir-math", "redis", "run", "inference", "rollout", "trainer", "page"}
    assert set(SERVICES) == profile
