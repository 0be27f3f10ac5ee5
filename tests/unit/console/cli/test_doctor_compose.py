"""`arlarena doctor --compose` with a stand-in for the docker command: it finds what is missing, and names the fix."""

import json
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from arlarena.console.cli.doctor import Finding
from arlarena.console.cli.doctor_compose import examine_compose

STAND_IN = """#!{python}
import json, sys
answers = json.loads(open({answers!r}).read())
words = " ".join(sys.argv[1:])
for start, answer in answers.items():
    if words.startswith(start):
        if answer is None:
            print("no such thing", file=sys.stderr)
            sys.exit(1)
        print(answer)
        sys.exit(0)
sys.exit("unexpected: " + words)
"""


class Machine:
    """A machine whose docker command gives the answers of a healthy deployment, unless the test changes them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.secrets = folder, folder / "secrets"
        self.secrets.mkdir(mode=0o700)
        (self.secrets / "token").write_text("x")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.project: dict[str, Any] = {
            "services": {
                "sokoban": {
                    "image": "arlarena/environment-sokoban:0.1.0",
                    "ports": [{"host_ip": "127.0.0.1", "published": str(self.port)}],
                },
                "redis": {"image": "valkey/valkey:8.1"},
            },
            "secrets": {"token": {"file": str(self.secrets / "token")}},
        }
        self.answers: dict[str, str | None] = {
            "version": "28.1.0",
            "compose version": "2.39.1",
            "info": json.dumps({"MemTotal": 16 * 2**30, "Runtimes": {"runc": {}}}),
            "compose ps": "",
            "image inspect": json.dumps({"org.opencontainers.image.version": "0.1.0"}),
        }

    def examine(self) -> dict[str, Finding]:
        answers = self.folder / "answers.json"
        answers.write_text(json.dumps({"compose config": json.dumps(self.project), **self.answers}))
        program = self.folder / "bin" / "docker"
        program.parent.mkdir(exist_ok=True)
        program.write_text(STAND_IN.format(python=sys.executable, answers=str(answers)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return {finding.check: finding for finding in examine_compose(self.folder)}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return Machine(tmp_path)


def test_a_machine_with_everything_has_no_problem(machine: Machine) -> None:
    found = machine.examine()
    assert set(found) == {"engine", "compose", "memory", "gpu", "secrets", "ports", "images"}
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert found["images"].result == "1 images of version 0.1.0"


@pytest.mark.parametrize(
    ("command", "answer", "check", "verdict", "fix"),
    [
        ("version", None, "engine", "problem", "no such thing"),
        ("version", "19.3.1", "engine", "problem", "20.10 is needed; update Docker Engine"),
        ("compose version", "2.4.0", "compose", "problem", "2.24 is needed; update Docker Compose"),
        ("info", json.dumps({"MemTotal": 2**32}), "memory", "warning", "8 GB recommended"),
        ("compose ps", None, "engine", "problem", "no such thing"),
        ("image inspect", None, "images", "warning", "run `make images`"),
    ],
)
def test_the_finding_names_the_fix(
    machine: Machine, command: str, answer: str | None, check: str, verdict: str, fix: str
) -> None:
    machine.answers[command] = answer
    finding = machine.examine()[check]
    assert finding.verdict == verdict
    assert fix in finding.result


def test_secrets_must_exist_in_a_folder_that_only_the_owner_can_enter(machine: Machine) -> None:
    machine.secrets.chmod(0o755)
    assert f"run `chmod 700 {machine.secrets}`" in machine.examine()["secrets"].result
    (machine.secrets / "token").unlink()
    assert machine.examine()["secrets"].result == "missing: token; run `make secrets`"


def test_a_port_in_use_is_a_problem_unless_the_services_themselves_use_it(machine: Machine) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", machine.port))
        other.listen()
        finding = machine.examine()["ports"]
        assert finding.verdict == "problem"
        assert "set ARLARENA_SOKOBAN_PORT to another port" in finding.result
        machine.answers["compose ps"] = "a-container"
        assert "ports" not in machine.examine()


def test_the_profile_gpu_needs_the_runtime_of_nvidia(machine: Machine) -> None:
    machine.project["services"]["trainer-gpu"] = {"image": "arlarena/trainer:0.1.0-gpu"}
    assert "install the NVIDIA Container Toolkit" in machine.examine()["gpu"].result
    machine.answers["info"] = json.dumps({"MemTotal": 16 * 2**30, "Runtimes": {"nvidia": {}}})
    assert machine.examine()["gpu"].verdict == "ok"


def test_without_docker_the_only_finding_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = examine_compose(tmp_path)
    assert "docker is not on PATH" in finding.result
