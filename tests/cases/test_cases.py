"""Every program of this folder exits with 0: on a quiet machine, and, in the slow tests, on a busy one."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = sorted(
    set(Path(__file__).parent.glob("*.py")) - {Path(__file__), Path(__file__).with_name("case_support.py")}
)
# They load every core themselves, and wait until limits of CPU time are reached.
BUSY_THEMSELVES = {"judge_cpu_limit", "sandbox_cpu_limit"}


@pytest.mark.processes
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("program", "options"),
    [
        pytest.param(path, options, id=f"{path.stem}{''.join(options)}", marks=[pytest.mark.slow] if slow else [])
        for path in PROGRAMS
        for options in ([], ["--busy"])
        for slow in [bool(options) or path.stem in BUSY_THEMSELVES]
    ],
)
def test_the_program_finds_nothing_wrong(program, options):
    done = subprocess.run(
        [sys.executable, str(program), *options], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
