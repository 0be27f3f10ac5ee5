"""Endings of programs in the fork sandbox: the line that names an error, and independence of the machine's load."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest
from cases.case_support import busy_cores
from support.sandbox.sandbox_support import wait_until

from arlarena.sandbox import kernel
from arlarena.sandbox.execution import SandboxError
from arlarena.sandbox.forks import ForkSandbox, ForkSettings
from arlarena.sandbox.limits import ExecutionLimits
from arlarena.sandbox.lockdown import GRACE_S

SHORT = ExecutionLimits(wall_s=2.0, cpu_s=1.0)  # for programs without an end
pytestmark = pytest.mark.skipif(not kernel.supported(), reason="the sandbox of forks needs Linux on x86-64 or aarch64")


@pytest.mark.parametrize(
    ("program", "ending", "line"),
    [
        ("1 / 0", "error", "ZeroDivisionError: division by zero"),
        ("def f(:", "error", "SyntaxError: invalid syntax"),
        ("import pandas", "error", "ModuleNotFoundError: No module named 'pandas'"),
        ("raise SystemExit", "ok", ""),
        ("import sys; sys.exit(0)", "ok", ""),
        ("import sys; sys.exit(3)", "error", "SystemExit: 3"),
        ("import sys; sys.exit('over')", "error", "SystemExit: over"),
        ("input()", "error", "EOFError: EOF when reading a line"),
        ("x = 'a\0b'\n\0", "error", "SyntaxError: source code string cannot contain null bytes"),
        ("import os; os._exit(97)", "error", ""),
        ("import ctypes; ctypes.string_at(0)", "killed", "ProcessError: the program was ended by SIGSEGV"),
        ("def f(): f()\nf()", "error", "RecursionError: maximum recursion depth exceeded"),
        (
            "import time; time.sleep(60)",
            "timeout",
            "TimeoutError: the program took more than 2 s of wall-clock time or 1 s of CPU time",
        ),
        ("print('x' * 100000)", "output", "OutputError: the program wrote more than 65536 bytes"),
        ("x = bytearray(1 << 30)", "error", "MemoryError"),
    ],
)
def test_a_program_has_the_expected_ending_and_error_line(
    sandbox: ForkSandbox, program: str, ending: str, line: str
) -> None:
    execution = sandbox.run(program, limits=SHORT if ending == "timeout" else None)
    assert (execution.ending, execution.error_line) == (ending, line)


def test_output_that_is_not_utf_8_is_decoded_with_replacement(sandbox: ForkSandbox) -> None:
    assert sandbox.run(r"import os; os.write(1, b'a\xff\n')").stdout == "a�\n"
    assert sandbox.run(r"print('\ud800')").stdout == "?\n"


def test_an_error_whose_message_raises_is_still_reported(sandbox: ForkSandbox) -> None:
    program = "class E(Exception):\n    def __str__(self): raise RuntimeError\n    __repr__ = __str__\nraise E"
    execution = sandbox.run(program)
    assert execution.ending == "error"
    assert "E" in execution.error_line


# ---- the line that names an error ---------------------------------------------------------------------------------

GROUP = "raise ExceptionGroup('several', [ValueError('a'), TypeError('b')])"


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("raise ValueError('one\\ntwo\\nthree')", "ValueError: one"),
        ("raise ValueError('\\n\\n  one\\u2028two')", "ValueError: one"),
        ("raise ValueError", "ValueError"),
        ("raise ValueError('')", "ValueError"),
        ("{}['x']", "KeyError: 'x'"),
        ("e = ValueError('bad')\ne.add_note('look: here')\nraise e", "ValueError: bad"),
        (GROUP, "ExceptionGroup: several (2 sub-exceptions)"),
        (f"try:\n    {GROUP}\nexcept* ValueError: pass", "ExceptionGroup: several (1 sub-exception)"),
        ("try: 1 / 0\nexcept Exception as e: raise ValueError('bad') from e", "ValueError: bad"),
        ("try: 1 / 0\nexcept Exception: raise ValueError('bad') from None", "ValueError: bad"),
        ("try: 1 / 0\nexcept Exception: x", "NameError: name 'x' is not defined"),
        ("class E(Exception): pass\nraise E('x: y')", "E: x: y"),
        ("class A:\n    class E(Exception): pass\nraise A.E", "A.E"),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "E: (its message cannot be shown)"),
        ("class E(Exception):\n    def __str__(self): return 5\nraise E", "E: (its message cannot be shown)"),
        ("class E(Exception):\n    def __str__(self): raise KeyboardInterrupt\nraise E",
         "E: (its message cannot be shown)"),
        ("from sympy.polys.polyerrors import PolynomialError\nraise PolynomialError('x\\ny')",
         "sympy.polys.polyerrors.PolynomialError: x"),
        ("s = 'abc", "SyntaxError: unterminated string literal (detected at line 1)"),
        ("if x:\npass", "IndentationError: expected an indented block after 'if' statement on line 1"),
        ("import sys\nsys.exit('over:\\nno solution')", "SystemExit: over:"),
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise BaseException('x')", "BaseException: x"),
        ("import asyncio\nasync def main(): pass\nasyncio.run(main())",
         "PermissionError: [Errno 1] Operation not permitted"),
        ("class D:\n    def __del__(self): os.write(2, b'last')\nimport os\ndef f():\n    d = D()\n    1 / 0\nf()",
         "ZeroDivisionError: division by zero"),
        ("import sys\nsys.stderr.write('no end')\n1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.stderr = None\n1 / 0", "ZeroDivisionError: division by zero"),
        ("import io, sys\nsys.stderr = io.StringIO()\n1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys, traceback\ntraceback.format_exception = None\n1 / 0", "ZeroDivisionError: division by zero"),
        ("raise ValueError('x' * 1_000_000)", f"ValueError: {'x' * 988}"),
        ("l = []\nwhile True: l.append('x' * 100_000 + str(len(l)))", "MemoryError"),
        ("l = []\nwhile True: l.append(len(l) + 1000)", "MemoryError"),
        ("import numpy\nnumpy.ones(10**9)",
         "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB for an array with shape (1000000000,) "
         "and data type float64"),
    ],
)  # fmt: skip
def test_the_error_line_has_the_type_and_the_first_line_of_the_message(
    sandbox: ForkSandbox, program: str, line: str
) -> None:
    execution = sandbox.run(program)
    assert (execution.ending, execution.error_line.replace("numpy._core", "numpy.core")) == ("error", line)


def test_the_traceback_precedes_the_error_line(sandbox: ForkSandbox) -> None:
    lines = sandbox.run("x = 1\ndef f(): raise ValueError('bad')\nf()").stderr.strip().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert [line.strip() for line in lines[1:]] == [
        'File "<program>", line 3, in <module>',
        'File "<program>", line 2, in f',
        "ValueError: bad",
    ]


# ---- endings on a busy machine ------------------------------------------------------------------------------------


TOO_MUCH = [
    "print('so far')\nwhile True: pass",
    "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\nwhile True: pass",
    "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    "import signal, time\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile time.process_time() < 1.4: pass",
]


@contextmanager
def busy_core(sandbox: ForkSandbox, each: int = 1) -> Iterator[None]:
    """The programs of `sandbox` share one core with `each` other computations for the length of the block."""
    zygote = sandbox.zygote_pid
    cores = os.sched_getaffinity(zygote)
    core = min(cores)
    os.sched_setaffinity(zygote, {core})
    try:
        with busy_cores(each, core):
            yield
    finally:
        os.sched_setaffinity(zygote, cores)


def hit_cpu_limit(sandbox: ForkSandbox, program: str) -> bool:
    """Whether the program reached its limit of CPU time. Its output before that is kept."""
    execution = sandbox.run(program, limits=SHORT)
    assert execution.stdout == ("so far\n" if "so far" in program else "")
    assert (execution.used.cpu_s or 0) < SHORT.cpu_s + GRACE_S + 0.5
    assert (execution.ending, execution.error_line) == (
        "timeout", "TimeoutError: the program took more than 2 s of wall-clock time or 1 s of CPU time"
    )  # fmt: skip
    return execution.hit_cpu_limit


@pytest.mark.parametrize("program", TOO_MUCH)
def test_the_cpu_limit_ends_a_program_that_blocks_signals(sandbox: ForkSandbox, program: str) -> None:
    assert hit_cpu_limit(sandbox, program)


def test_the_cpu_limit_is_reported_the_same_on_a_busy_machine(sandbox: ForkSandbox) -> None:
    with busy_core(sandbox):
        assert hit_cpu_limit(sandbox, TOO_MUCH[0])


def test_waiting_for_a_cpu_does_not_count_towards_the_time_limit(sandbox: ForkSandbox) -> None:
    program = "import time\nwhile time.process_time() < 0.5: pass\nprint('done')"
    with busy_core(sandbox, each=3):
        execution = sandbox.run(program, limits=ExecutionLimits(wall_s=1.0, cpu_s=5.0))
    assert (execution.ending, execution.stdout) == ("ok", "done\n")
    assert execution.used.wall_s > 1.0


def test_a_sleeping_program_reaches_the_wall_clock_limit_on_a_busy_machine(sandbox: ForkSandbox) -> None:
    with busy_core(sandbox):
        execution = sandbox.run("import time\ntime.sleep(60)", limits=ExecutionLimits(wall_s=1.0, cpu_s=5.0))
    assert (execution.ending, execution.hit_cpu_limit) == ("timeout", False)


def test_an_overloaded_machine_is_a_sandbox_error() -> None:
    sandbox = ForkSandbox(ForkSettings(limits=ExecutionLimits(wall_s=0.5, cpu_s=5.0), max_wall_factor=1.5))
    try:
        with (
            busy_core(sandbox, each=4),
            pytest.raises(SandboxError, match="this machine is too busy: a program waited"),
        ):
            sandbox.run("while True: pass")
        wait_until(lambda: psutil.Process(sandbox.zygote_pid).children() == [])
    finally:
        sandbox.close()


def test_a_program_killed_by_the_system_is_a_sandbox_error(sandbox: ForkSandbox) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sandbox.run, "import time; time.sleep(3)")
        zygote = psutil.Process(sandbox.zygote_pid)
        wait_until(lambda: zygote.children() != [])
        for child in zygote.children():
            child.kill()
        with pytest.raises(SandboxError, match=r"kernel killed a program \(SIGKILL\)|before it was locked down"):
            running.result(10)
