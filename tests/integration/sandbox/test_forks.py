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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from sandbox_attacks.honest import HONEST
from support.sandbox.sandbox_support import patched_work, wait_until

from arlarena.sandbox import kernel
from arlarena.sandbox.execution import SandboxBusy, SandboxError, SandboxUnavailable
from arlarena.sandbox.forks import ForkSandbox, ForkSettings
from arlarena.sandbox.limits import ExecutionLimits
from arlarena.sandbox.zygote_client import ZygoteProcess

BARE = "support.sandbox.bare_program"
pytestmark = pytest.mark.skipif(not kernel.supported(), reason="the sandbox of forks needs Linux on x86-64 or aarch64")


@pytest.mark.parametrize(("program", "expected"), HONEST)
def test_an_honest_program_prints_what_it_should(sandbox: ForkSandbox, program: str, expected: str) -> None:
    execution = sandbox.run(program)
    assert (execution.ending, execution.stdout, execution.error_line) == ("ok", expected, "")


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
        "from pathlib import Path\nfrom arlarena.sandbox import run_program\n"
        "def load():\n    run, readable = run_program.load()\n    folder = Path(__file__).parent\n"
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
        execution = sandbox.run(scan, limits=ExecutionLimits(wall_s=30, cpu_s=20, memory_mb=512))
        assert all(other.result().stdout for other in others)
    assert (execution.stdout, execution.error_line) == ("0 True True\n", "")


# Slow: hundreds of executions, 12 s. `make verify PART=sandbox` makes 10,000.
@pytest.mark.slow
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
    sandbox = ForkSandbox(ForkSettings(limits=ExecutionLimits(wall_s=10)), BARE)
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
    mortal = ForkSandbox(ForkSettings(limits=ExecutionLimits(wall_s=10)), BARE)
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
    sandbox = ForkSandbox(ForkSettings(), BARE)
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
    sandbox = ForkSandbox(ForkSettings(limits=ExecutionLimits(wall_s=20), max_running=1, max_waiting=2), BARE)
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
        ForkSandbox(ForkSettings(required=("seccomp", "a-layer-of-the-future")), BARE)


def test_without_landlock_no_file_is_opened_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    code = "arlarena.sandbox.landlock.version = lambda: 0"
    with pytest.raises(SandboxUnavailable, match="does not offer: landlock"):
        ForkSandbox(ForkSettings(), work=patched_work(monkeypatch, code))
    sandbox = ForkSandbox(ForkSettings(required=("seccomp",)), work=patched_work(monkeypatch, code))
    try:
        assert "landlock" not in sandbox.health().layers
        assert sandbox.run("import sympy; print(sympy.sqrt(8))").stdout == "2*sqrt(2)\n"
        for path in ("/etc/passwd", os.__file__):
            assert sandbox.run(f"open({path!r})").error_line.startswith("PermissionError: [Errno 1]")
    finally:
        sandbox.close()


def test_a_zygote_that_cannot_start_says_why() -> None:
    with pytest.raises(SandboxError, match="No module named 'no_such_work'"):
        ZygoteProcess("no_such_work", (), 30.0)


def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "MACHINE", "riscv64")
    with pytest.raises(SandboxUnavailable, match="needs Linux on x86-64 or aarch64, not riscv64"):
        ForkSandbox()
