"""A test that does not end is reported with its name, its time limit and its stacks, also with pytest-xdist."""

import os
import subprocess
import sys
from pathlib import Path

HANGING = """
import asyncio, threading
import pytest

def wait_in_python():
    threading.Event().wait()

async def wait_in_a_task():
    await asyncio.Event().wait()

async def never():
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wait_in_a_task())

@pytest.mark.timeout(0.3)
def test_hangs_in_python():
    wait_in_python()

@pytest.mark.timeout(0.3)
def test_hangs_in_asyncio():
    asyncio.run(never())

def test_passes():
    pass

@pytest.mark.timeout(0.3)
def test_holds_the_global_lock():
    sum(range(10**14))  # one call of C, in which no signal handler runs
"""
TESTS = Path(__file__).parents[1]


def test_a_test_that_hangs_is_reported_with_its_name_and_stacks(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    command = [
        *("-n", "1", "--max-worker-restart", "0", "-c", os.devnull, "--rootdir", str(tmp_path)),
        *("-p", "xdist", "-p", "pytest_timeout", "-p", "support.processes.timeouts", "-p", "no:cacheprovider"),
        *("--timeout-method", "signal"),
        *("-o", "faulthandler_timeout=3", "-o", "faulthandler_exit_on_timeout=true", "test_hanging.py"),
    ]
    variables = {"PYTHONPATH": str(TESTS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *command], cwd=tmp_path, env=os.environ | variables,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    for name, function in (("python", "wait_in_python"), ("asyncio", "wait_in_a_task")):
        (report,) = [part for part in done.stdout.split("____ ") if part.startswith(f"test_hangs_in_{name} ")]
        assert f"timeout: test_hanging.py::test_hangs_in_{name} has run for more than 0.3 s" in report
        assert f"in {function}" in report or f"{function}()" in report
    assert "1 passed" in done.stdout
    assert "crashed while running 'test_hanging.py::test_holds_the_global_lock'" in done.stdout
    assert "Timeout (0:00:03)!" in done.stderr
    assert "in test_holds_the_global_lock" in done.stderr
