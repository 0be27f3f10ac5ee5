"""The container sandbox on a real Docker engine, with the image of the attacks."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from arlarena.sandbox.containers import ContainerSandbox, ContainerSettings
from arlarena.sandbox.execution import SandboxError, SandboxUnavailable
from arlarena.sandbox.limits import ExecutionLimits

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


@pytest.fixture(scope="module")
def sandbox(image: str) -> Iterator[ContainerSandbox]:
    made = ContainerSandbox(ContainerSettings(image, ExecutionLimits(wall_s=8.0, cpu_s=2.0, memory_mb=256)))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("program", "ending", "stdout", "line"),
    [
        ("print(2**100)", "ok", "1267650600228229401496703205376\n", ""),
        ("import sympy as sp\nprint(sp.factorint(360))", "ok", "{2: 3, 3: 2, 5: 1}\n", ""),
        ("final_answer(3)", "ok", "\\boxed{3}\n", ""),
        ("1 / 0", "error", "", "ZeroDivisionError: division by zero"),
        ("print(1)\nimport os; os._exit(5)", "error", "1\n", ""),
        ("input()", "error", "", "EOFError: EOF when reading a line"),
        (
            "while True: pass",
            "timeout",
            "",
            "TimeoutError: the program took more than 8 s of wall-clock time or 2 s of CPU time",
        ),
        (
            "import time; time.sleep(60)",
            "timeout",
            "",
            "TimeoutError: the program took more than 8 s of wall-clock time or 2 s of CPU time",
        ),
        (
            "x = bytearray(1 << 30)",
            "killed",
            "",
            "ProcessError: the program was ended by SIGKILL, because it used more than 256 MiB",
        ),
        ("open('/tmp/x', 'w')", "error", "", "OSError: [Errno 30] Read-only file system: '/tmp/x'"),
        ("import os; print(os.getuid())", "ok", "65534\n", ""),
    ],
)
def test_a_program_has_the_expected_result(
    sandbox: ContainerSandbox, program: str, ending: str, stdout: str, line: str
) -> None:
    execution = sandbox.run(program)
    assert (execution.ending, execution.stdout, execution.error_line) == (ending, stdout, line)


def test_too_much_memory_ends_a_program(sandbox: ContainerSandbox) -> None:
    execution = sandbox.run("x = bytearray(1 << 30)")
    assert execution.error_line == "ProcessError: the program was ended by SIGKILL, because it used more than 256 MiB"


def test_too_much_output_ends_a_program(sandbox: ContainerSandbox) -> None:
    execution = sandbox.run("while True: print('x' * 1000)")
    assert execution.ending == "output"
    assert len(execution.stdout) == 1 << 16


def test_a_program_has_no_network(sandbox: ContainerSandbox) -> None:
    execution = sandbox.run("import socket\nsocket.create_connection(('192.0.2.1', 80), 3)")
    assert execution.error_line == "OSError: [Errno 101] Network is unreachable"


def test_earlier_programs_run_without_visible_output(sandbox: ContainerSandbox) -> None:
    assert sandbox.run("print(x)", ["x = 3\nprint('early')", "1 / 0"]).stdout == "3\n"


def test_no_container_is_left_behind(sandbox: ContainerSandbox) -> None:
    import docker

    sandbox.run("1 / 0")
    assert docker.from_env().containers.list(all=True, filters={"ancestor": "arlarena-sandbox-attacks"}) == []
    assert sandbox.health().alive


def test_close_ends_running_programs_with_a_sandbox_error(image: str) -> None:
    import docker

    closing = ContainerSandbox(ContainerSettings(image, ExecutionLimits(wall_s=60.0)))
    running = {"filters": {"ancestor": image}}
    with ThreadPoolExecutor(1) as pool:
        sleeper = pool.submit(closing.run, "import time; time.sleep(60)")
        ends = time.monotonic() + 30
        while not docker.from_env().containers.list(**running):
            assert time.monotonic() < ends
            time.sleep(0.05)
        closing.close()
        with pytest.raises(SandboxError):
            sleeper.result(30)
    assert docker.from_env().containers.list(all=True, **running) == []


def test_a_missing_image_engine_or_package_is_named(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxUnavailable, match="has no image 'no-such-image'"):
        ContainerSandbox(ContainerSettings("no-such-image"))
    closed = ContainerSandbox(ContainerSettings(image))
    closed.close()
    with pytest.raises(SandboxError, match="closed"):
        closed.run("pass")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    with pytest.raises(SandboxUnavailable, match=r"the Docker engine does not answer \(check DOCKER_HOST\)"):
        ContainerSandbox(ContainerSettings(image))
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(SandboxUnavailable, match="pip install docker"):
        ContainerSandbox(ContainerSettings(image))
