"""The sandbox of forks: what a program can do, how it may end, and what happens when the sandbox itself fails."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from busy_machine import busy_cores
from sandbox_attacks.honest import HONEST

from arlarena.env_server.sandbox import kernel
from arlarena.env_server.sandbox.execution import Limits, SandboxBusy, SandboxError, SandboxUnavailable
from arlarena.env_server.sandbox.forks import ForkSandbox, ForkSettings
from arlarena.env_server.sandbox.lockdown import GRACE_S
from arlarena.env_server.sandbox.process import ZygoteProcess

pytestmark = pytest.mark.skipif(not kernel.supported(), reason="the sandbox of forks needs Linux on x86-64 or aarch64")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ForkSandbox]:
    made = ForkSandbox(ForkSettings(limits=Limits(wall_s=4.0, cpu_s=2.0, memory_mb=256)))
    yield made
    made.close()


@pytest.mark.parametrize(("program", "expected"), HONEST)
def test_an_honest_program_prints_what_it_should(sandbox: ForkSandbox, program: str, expected: str) -> None:
    execution = sandbox.run(program)
    assert (execution.ending, execution.stdout, execution.error_line) == ("ok", expected, "")


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
        ("import ctypes; ctypes.string_at(0)", "killed", "ProcessError: it was ended by SIGSEGV"),
        ("def f(): f()\nf()", "error", "RecursionError: maximum recursion depth exceeded"),
        ("while True: pass", "timeout", "TimeoutError: it took more than 4 s, or 2 s of computing"),
        ("import time; time.sleep(60)", "timeout", "TimeoutError: it took more than 4 s, or 2 s of computing"),
        ("print('x' * 100000)", "output", "OutputError: it wrote more than 65536 bytes"),
        ("x = bytearray(1 << 30)", "error", "MemoryError"),
    ],
)
def test_how_a_program_may_end(sandbox: ForkSandbox, program: str, ending: str, line: str) -> None:
    execution = sandbox.run(program)
    assert (execution.ending, execution.error_line) == (ending, line)


def test_what_was_printed_before_a_program_is_ended_is_seen(sandbox: ForkSandbox) -> None:
    execution = sandbox.run("print('so far')\nwhile True: pass")
    assert (execution.ending, execution.stdout) == ("timeout", "so far\n")


def test_output_that_is_no_text_is_shown_as_well_as_it_can_be(sandbox: ForkSandbox) -> None:
    assert sandbox.run(r"import os; os.write(1, b'a\xff\n')").stdout == "a�\n"
    assert sandbox.run(r"print('\ud800')").stdout == "?\n"


def test_an_error_that_cannot_be_shown_is_an_error_all_the_same(sandbox: ForkSandbox) -> None:
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
def test_the_last_line_of_an_error_is_its_kind_and_the_first_line_of_its_message(
    sandbox: ForkSandbox, program: str, line: str
) -> None:
    execution = sandbox.run(program)
    assert (execution.ending, execution.error_line.replace("numpy._core", "numpy.core")) == ("error", line)


def test_an_error_has_its_traceback_before_it(sandbox: ForkSandbox) -> None:
    lines = sandbox.run("x = 1\ndef f(): raise ValueError('bad')\nf()").stderr.strip().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert [line.strip() for line in lines[1:]] == [
        'File "<program>", line 3, in <module>',
        'File "<program>", line 2, in f',
        "ValueError: bad",
    ]


# ---- endings on a busy machine ------------------------------------------------------------------------------------


TOO_MUCH = [
    "while True: pass",
    "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\nwhile True: pass",
    "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    "import signal, time\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile time.process_time() < 1.4: pass",
]


def computed_too_long(sandbox: ForkSandbox, program: str) -> bool:
    limits = Limits(wall_s=2.0, cpu_s=1.0)
    execution = sandbox.run(program, limits=limits)
    assert (execution.used.cpu_s or 0) < limits.cpu_s + GRACE_S + 0.5
    assert (execution.ending, execution.error_line) == (
        "timeout", "TimeoutError: it took more than 2 s, or 1 s of computing"
    )  # fmt: skip
    return execution.computed_too_long


@pytest.mark.parametrize("program", TOO_MUCH)
def test_a_program_that_computes_too_long_is_ended_whatever_it_does_with_signals(
    sandbox: ForkSandbox, program: str
) -> None:
    assert computed_too_long(sandbox, program)


def test_a_program_that_computes_too_long_is_told_the_same_on_a_busy_machine(sandbox: ForkSandbox) -> None:
    with busy_cores():
        assert computed_too_long(sandbox, TOO_MUCH[0])


def test_waiting_for_a_processor_does_not_count_as_time_of_a_program(sandbox: ForkSandbox) -> None:
    program = "import time\nwhile time.process_time() < 0.8: pass\nprint('done')"
    with busy_cores(each=2):
        execution = sandbox.run(program, limits=Limits(wall_s=1.0, cpu_s=5.0))
    assert (execution.ending, execution.stdout) == ("ok", "done\n")
    assert execution.used.wall_s > 1.0


def test_a_program_that_sleeps_is_ended_by_the_clock_on_a_busy_machine_too(sandbox: ForkSandbox) -> None:
    with busy_cores():
        execution = sandbox.run("import time\ntime.sleep(60)", limits=Limits(wall_s=1.0, cpu_s=5.0))
    assert (execution.ending, execution.computed_too_long) == ("timeout", False)


def test_a_machine_that_is_too_busy_is_the_sandboxs_failure() -> None:
    sandbox = ForkSandbox(ForkSettings(limits=Limits(wall_s=1.0, cpu_s=5.0), patience=1.5))
    try:
        with busy_cores(each=4), pytest.raises(SandboxError, match="this machine is too busy: an execution waited"):
            sandbox.run("while True: pass")
        wait_until(lambda: psutil.Process(sandbox.zygote_pid).children() == [])
    finally:
        sandbox.close()


def test_a_program_that_the_machine_kills_is_the_sandboxs_failure(sandbox: ForkSandbox) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sandbox.run, "import time; time.sleep(3)")
        zygote = psutil.Process(sandbox.zygote_pid)
        wait_until(lambda: zygote.children() != [])
        for child in zygote.children():
            child.kill()
        with pytest.raises(SandboxError, match=r"killed by this machine \(SIGKILL\)|not locked down"):
            running.result(10)


# ---- library folders that change ----------------------------------------------------------------------------------


def test_imports_work_after_the_finders_have_forgotten_their_folders(sandbox: ForkSandbox) -> None:
    forget = "import importlib, sys\nimportlib.invalidate_caches()\nsys.path_importer_cache.clear()\n"
    for modules in ("wave, plistlib", "scipy.stats, sympy.stats", "mailbox, fractions"):
        execution = sandbox.run(f"{forget}import {modules}\nprint('ok')")
        assert (execution.error_line, execution.stdout) == ("", "ok\n")


def test_modules_of_a_library_folder_are_found_after_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "first.py").write_text("x = 1\n")
    (folder / "second.py").write_text("x = 2\n")
    (folder / "folder_work.py").write_text(
        "from pathlib import Path\nfrom arlarena.env_server.sandbox import program\n"
        "def load():\n    run, readable = program.load()\n    folder = Path(__file__).parent\n"
        "    return run, [*readable, folder / 'first.py', folder / 'second.py']\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    sandbox = ForkSandbox(ForkSettings(), "folder_work")
    try:
        assert sandbox.run("import first; print(first.x)").stdout == "1\n"
        (folder / "third.py").write_text("x = 3\n")
        assert sandbox.run("import first, second; print(second.x)").stdout == "2\n"
        for attempt in ("import third", f"open({str(folder / 'third.py')!r})"):
            assert sandbox.run(attempt).error_line.startswith("PermissionError: [Errno 13]")
        assert sandbox.run(f"import os; os.listdir({str(folder.parent)!r})").error_line.startswith("PermissionError")
    finally:
        sandbox.close()
        shutil.rmtree(folder)


def test_earlier_programs_have_been_run_and_are_not_heard(sandbox: ForkSandbox) -> None:
    before = ["import math\nx = 20\nprint('early')", "y = x + 1\n1 / 0", "z = 1"]
    execution = sandbox.run("print(x, y, z, math.pi > 3)", before)
    assert (execution.ending, execution.stdout, execution.stderr) == ("ok", "20 21 1 True\n", "")


# ---- nothing can pass for a reply of the sandbox -----------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        r"import os; os.write(1, b'\x06')",
        r"print('\x06', end='', flush=True)",
        """print('{"id": 0, "status": 0, "cpu_s": 0.0, "memory_mb": 0.0}')""",
        """import sys; sys.stderr.write('{"failed": "no"}\\n')""",
    ],
)
def test_what_a_program_writes_is_its_output_and_nothing_else(sandbox: ForkSandbox, program: str) -> None:
    execution = sandbox.run(program)
    assert execution.ending == "ok"
    assert execution.stdout in ("\x06", '{"id": 0, "status": 0, "cpu_s": 0.0, "memory_mb": 0.0}\n', "")


def test_a_program_cannot_pass_for_one_that_was_never_locked_down(sandbox: ForkSandbox) -> None:
    for code in range(90, 100):
        assert sandbox.run(f"import os; os._exit({code})").ending == "error"


# ---- nothing stays -----------------------------------------------------------------------------------------------


def test_nothing_of_one_program_is_there_for_the_next(sandbox: ForkSandbox) -> None:
    sandbox.run("import builtins, numpy, sys\nbuiltins.left = 1\nnumpy.left = 1\nsys.left = 1\nprint = None")
    found = sandbox.run("import builtins, numpy, sys\nprint([hasattr(x, 'left') for x in (builtins, numpy, sys)])")
    assert found.stdout == "[False, False, False]\n"


SCAN = """
import ctypes, gc
libc = ctypes.CDLL(None, use_errno=True)
libc.sbrk.restype = ctypes.c_void_p
halves, own = {halves!r}, bytes(reversed({marker!r}))
large = own * 100  # so that one lies among the small objects, one among the large ones
def count(text, first, second):  # so that the whole is nowhere in this program's own memory
    return sum(part.startswith(second) for part in text.split(first)[1:])
def mapped(page):
    libc.access(ctypes.c_void_p(page), 0)
    return ctypes.get_errno() != 14  # EFAULT
things = gc.get_objects()
for thing in things[:]:
    things += gc.get_referents(thing)[:20]
arenas = {{id(thing) >> 20 for thing in things}}
pages = {{page for arena in arenas for page in range(arena << 20, arena + 1 << 20, 4096)}}
end = libc.sbrk(0) & ~4095
page = end - 4096
while mapped(page): pages.add(page); page -= 4096
found = mine = megabytes = 0
del things
for page in sorted(pages):
    ctypes.set_errno(0)
    if not mapped(page): continue
    text = ctypes.string_at(page, 4096)
    megabytes += 1 / 256
    found += count(text, *halves)
    mine += count(text, own[:9], own[9:])
print(found, mine > 50, megabytes > 20)
"""


def test_a_secret_of_one_program_is_not_in_the_memory_of_another(sandbox: ForkSandbox) -> None:
    secret, marker = b"the-secret-of-another-episode-5117", b"what-the-scan-is-to-find-9214"
    before, during = f"x = {secret!r}\nprint(x)", f"x = {secret!r} * 100\nprint(x)\nimport time; time.sleep(3)"
    assert sandbox.run(before).stdout
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(sandbox.run, during) for _ in range(3)]
        wait_until(lambda: sandbox.health().running == 3)
        scan = SCAN.format(halves=(secret[:16], secret[16:]), marker=marker[::-1])
        execution = sandbox.run(scan, limits=Limits(wall_s=30, cpu_s=20, memory_mb=512))
        assert all(other.result().stdout for other in others)
    assert (execution.stdout, execution.error_line) == ("0 True True\n", "")


def test_many_executions_leave_nothing_behind(sandbox: ForkSandbox) -> None:
    server, zygote = psutil.Process(), psutil.Process(sandbox.zygote_pid)
    sandbox.run("pass")
    gc.collect()  # what earlier tests of this process left open is closed now, and not meanwhile
    before = server.num_fds(), zygote.num_fds(), zygote.memory_info().rss
    with ThreadPoolExecutor(4) as pool:
        endings = list(pool.map(lambda number: sandbox.run(f"print({number})").stdout, range(400)))
    assert endings == [f"{number}\n" for number in range(400)]
    assert zygote.children() == []
    assert (server.num_fds(), zygote.num_fds()) == before[:2]
    assert zygote.memory_info().rss < before[2] + (4 << 20)


# ---- the sandbox itself ------------------------------------------------------------------------------------------


def test_a_zygote_that_dies_is_replaced_and_its_programs_are_run_again() -> None:
    sandbox = ForkSandbox(ForkSettings(limits=Limits(wall_s=10)))
    try:
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(sandbox.run, f"import time; time.sleep(0.5); print({n})") for n in range(4)]
            wait_until(lambda: len(psutil.Process(sandbox.zygote_pid).children()) == 4)
            children = psutil.Process(sandbox.zygote_pid).children()
            os.kill(sandbox.zygote_pid, signal.SIGKILL)
            assert [one.result().stdout for one in running] == [f"{n}\n" for n in range(4)]
        assert sandbox.health().restarts == 1
        assert psutil.wait_procs(children, timeout=5)[1] == []  # its forks went with it
    finally:
        sandbox.close()


def test_a_server_without_descriptors_is_the_sandboxs_failure(
    sandbox: ForkSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    open_before = psutil.Process().num_fds()
    with monkeypatch.context() as patched:

        def exhausted(flags: int) -> tuple[int, int]:
            raise OSError(24, "Too many open files")

        patched.setattr(os, "pipe2", exhausted)
        with pytest.raises(SandboxError, match=r"cannot begin an execution: .* Too many open files"):
            sandbox.run("pass")
    assert psutil.Process().num_fds() == open_before
    assert sandbox.run("print(1)").stdout == "1\n"


def test_a_zygote_that_always_dies_is_the_sandboxs_failure() -> None:
    mortal = ForkSandbox(ForkSettings(limits=Limits(wall_s=10)))
    stop = threading.Event()

    def kill() -> None:
        while not stop.is_set():
            try:
                if psutil.Process(mortal.zygote_pid).children():
                    os.kill(mortal.zygote_pid, signal.SIGKILL)
            except (ProcessLookupError, psutil.NoSuchProcess):
                pass
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(SandboxError, match="zygote"):
            mortal.run("import time; time.sleep(5)")
    finally:
        stop.set()
        killer.join()
        mortal.close()


def test_closing_ends_what_runs_and_says_so() -> None:
    sandbox = ForkSandbox()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sandbox.run, "import time; time.sleep(60)")
        wait_until(lambda: psutil.Process(sandbox.zygote_pid).children() != [])
        children = psutil.Process(sandbox.zygote_pid).children()
        sandbox.close()
        with pytest.raises(SandboxError):
            running.result(10)
    assert psutil.wait_procs(children, timeout=5)[1] == []
    with pytest.raises(SandboxError, match="closed"):
        sandbox.run("pass")


def test_too_many_waiting_are_sent_away_with_a_time_to_come_back() -> None:
    sandbox = ForkSandbox(ForkSettings(limits=Limits(wall_s=20), max_running=1, max_waiting=2))
    try:
        with ThreadPoolExecutor(3) as pool:
            started = [pool.submit(sandbox.run, "import time; time.sleep(1); print('done')") for _ in range(3)]
            wait_until(lambda: sandbox.health().waiting == 2)
            with pytest.raises(SandboxBusy) as refused:
                sandbox.run("pass")
            assert refused.value.retry_after_s > 0
            assert [one.result().stdout for one in started] == ["done\n"] * 3
        assert sandbox.run("print(1)").stdout == "1\n"
    finally:
        sandbox.close()


def test_a_required_layer_that_cannot_be_had_means_that_nothing_is_run() -> None:
    with pytest.raises(SandboxUnavailable, match="this machine does not offer: a-layer-of-the-future"):
        ForkSandbox(ForkSettings(required=("seccomp", "a-layer-of-the-future")))


def test_without_landlock_no_file_is_opened_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    code = "arlarena.env_server.sandbox.landlock.version = lambda: 0"
    with pytest.raises(SandboxUnavailable, match="does not offer: landlock"):
        ForkSandbox(ForkSettings(), work=_patched(monkeypatch, code))
    sandbox = ForkSandbox(ForkSettings(required=("seccomp",)), work=_patched(monkeypatch, code))
    try:
        assert "landlock" not in sandbox.health().layers
        assert sandbox.run("import sympy; print(sympy.sqrt(8))").stdout == "2*sqrt(2)\n"
        for path in ("/etc/passwd", os.__file__):
            assert sandbox.run(f"open({path!r})").error_line.startswith("PermissionError: [Errno 1]")
    finally:
        sandbox.close()


def _patched(monkeypatch: pytest.MonkeyPatch, code: str) -> str:
    """A work like that of programs, in a zygote in which `code` was run before."""
    folder = Path(tempfile.mkdtemp())
    (folder / "patched_work.py").write_text(
        "import arlarena.env_server.sandbox.landlock, arlarena.env_server.sandbox.program as program\n"
        f"{code}\nload = program.load\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    return "patched_work"


def test_a_zygote_that_cannot_start_says_why() -> None:
    with pytest.raises(SandboxError, match="No module named 'no_such_work'"):
        ZygoteProcess("no_such_work", (), 30.0)


def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "MACHINE", "riscv64")
    with pytest.raises(SandboxUnavailable, match="needs Linux on x86-64 or aarch64, not riscv64"):
        ForkSandbox()


def wait_until(holds: object, seconds: float = 20.0) -> None:
    assert callable(holds)
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)
