"""The fork sandbox: what programs can do, how they end, and failures of the sandbox itself."""

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
def test_an_honest_program_prints_the_expected_output(sandbox: ForkSandbox, program: str, expected: str) -> None:
    execution = sandbox.run(program)
    assert (execution.ending, execution.stdout, execution.error_line) == ("ok", expected, "")


# ---- library folders that change ----------------------------------------------------------------------------------


def test_imports_work_after_the_import_caches_are_cleared(sandbox: ForkSandbox) -> None:
    forget = "import importlib, sys\nimportlib.invalidate_caches()\nsys.path_importer_cache.clear()\n"
    for modules in ("wave, plistlib", "scipy.stats, sympy.stats", "mailbox, fractions"):
        execution = sandbox.run(f"{forget}import {modules}\nprint('ok')")
        assert (execution.error_line, execution.stdout) == ("", "ok\n")


def test_modules_of_a_changed_library_folder_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_earlier_programs_run_without_visible_output(sandbox: ForkSandbox) -> None:
    before = ["import math\nx = 20\nprint('early')", "y = x + 1\n1 / 0", "z = 1"]
    execution = sandbox.run("print(x, y, z, math.pi > 3)", before)
    assert (execution.ending, execution.stdout, execution.stderr) == ("ok", "20 21 1 True\n", "")


# ---- a program cannot forge the sandbox's messages ---------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        r"import os; os.write(1, b'\x06')",
        r"print('\x06', end='', flush=True)",
        """print('{"id": 0, "status": 0, "cpu_s": 0.0, "memory_mb": 0.0}')""",
        """import sys; sys.stderr.write('{"failed": "no"}\\n')""",
    ],
)
def test_a_program_cannot_forge_messages_of_the_sandbox(sandbox: ForkSandbox, program: str) -> None:
    execution = sandbox.run(program)
    assert execution.ending == "ok"
    assert execution.stdout in ("\x06", '{"id": 0, "status": 0, "cpu_s": 0.0, "memory_mb": 0.0}\n', "")


def test_a_program_cannot_pretend_that_lockdown_failed(sandbox: ForkSandbox) -> None:
    for code in range(90, 100):
        assert sandbox.run(f"import os; os._exit({code})").ending == "error"


# ---- no state is kept between programs ---------------------------------------------------------------------------


def test_no_state_of_a_program_reaches_the_next(sandbox: ForkSandbox) -> None:
    sandbox.run("import builtins, numpy, sys\nbuiltins.left = 1\nnumpy.left = 1\nsys.left = 1\nprint = None")
    found = sandbox.run("import builtins, numpy, sys\nprint([hasattr(x, 'left') for x in (builtins, numpy, sys)])")
    assert found.stdout == "[False, False, False]\n"


SCAN = """
import ctypes, gc
libc = ctypes.CDLL(None, use_errno=True)
libc.sbrk.restype = ctypes.c_void_p
halves, own = {halves!r}, bytes(reversed({marker!r}))
large = own * 100  # a copy in each of the allocator's arenas: small and large objects
def count(text, first, second):  # two halves, so that this program's memory never holds the text
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


# Slow: hundreds of executions, 12 s. `make verify PART=sandbox` runs 10,000.
@pytest.mark.slow
def test_many_executions_leak_no_processes_descriptors_or_memory(sandbox: ForkSandbox) -> None:
    server, zygote = psutil.Process(), psutil.Process(sandbox.zygote_pid)
    sandbox.run("pass")
    gc.collect()  # closes descriptors left open by earlier tests, so that the count is stable
    before = server.num_fds(), zygote.num_fds(), zygote.memory_info().rss
    with ThreadPoolExecutor(4) as pool:
        endings = list(pool.map(lambda number: sandbox.run(f"print({number})").stdout, range(400)))
    assert endings == [f"{number}\n" for number in range(400)]
    assert zygote.children() == []
    assert (server.num_fds(), zygote.num_fds()) == before[:2]
    assert zygote.memory_info().rss < before[2] + (4 << 20)


# ---- the sandbox itself ------------------------------------------------------------------------------------------


def test_a_dead_zygote_is_replaced_and_its_programs_run_again() -> None:
    sandbox = ForkSandbox(ForkSettings(limits=ExecutionLimits(wall_s=10)), BARE)
    try:
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(sandbox.run, f"import time; time.sleep(0.5); print({n})") for n in range(4)]
            wait_until(lambda: len(psutil.Process(sandbox.zygote_pid).children()) == 4)
            children = psutil.Process(sandbox.zygote_pid).children()
            os.kill(sandbox.zygote_pid, signal.SIGKILL)
            assert [one.result().stdout for one in running] == [f"{n}\n" for n in range(4)]
        assert sandbox.health().restarts == 1
        assert psutil.wait_procs(children, timeout=5)[1] == []  # its forks ended with it
    finally:
        sandbox.close()


def test_running_out_of_descriptors_is_a_sandbox_error(sandbox: ForkSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    open_before = psutil.Process().num_fds()
    with monkeypatch.context() as patched:

        def exhausted(flags: int) -> tuple[int, int]:
            raise OSError(24, "Too many open files")

        patched.setattr(os, "pipe2", exhausted)
        with pytest.raises(SandboxError, match=r"cannot start an execution: .* Too many open files"):
            sandbox.run("pass")
    assert psutil.Process().num_fds() == open_before
    assert sandbox.run("print(1)").stdout == "1\n"


def test_a_zygote_that_always_dies_is_a_sandbox_error() -> None:
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


def test_close_ends_running_programs_with_a_sandbox_error() -> None:
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


def test_a_full_queue_raises_sandbox_busy_with_a_retry_time() -> None:
    sandbox = ForkSandbox(ForkSettings(limits=ExecutionLimits(wall_s=20), max_running=1, max_waiting=2), BARE)
    try:
        with ThreadPoolExecutor(3) as pool:
            started = [pool.submit(sandbox.run, "import time; time.sleep(1); print('done')")]
            wait_until(lambda: sandbox.health().running == 1)
            started += [pool.submit(sandbox.run, "print('done')") for _ in range(2)]
            wait_until(lambda: sandbox.health().waiting == 2)
            with pytest.raises(SandboxBusy) as refused:
                sandbox.run("pass")
            assert refused.value.retry_after_s > 0
            assert [one.result().stdout for one in started] == ["done\n"] * 3
        assert sandbox.run("print(1)").stdout == "1\n"
    finally:
        sandbox.close()


def test_a_missing_required_layer_makes_the_sandbox_unavailable() -> None:
    with pytest.raises(SandboxUnavailable, match="this machine does not support: a-layer-of-the-future"):
        ForkSandbox(ForkSettings(required=("seccomp", "a-layer-of-the-future")), BARE)


def test_without_landlock_programs_cannot_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    code = "arlarena.sandbox.landlock.version = lambda: 0"
    with pytest.raises(SandboxUnavailable, match="does not support: landlock"):
        ForkSandbox(ForkSettings(), work=patched_work(monkeypatch, code))
    sandbox = ForkSandbox(ForkSettings(required=("seccomp",)), work=patched_work(monkeypatch, code))
    try:
        assert "landlock" not in sandbox.health().layers
        assert sandbox.run("import sympy; print(sympy.sqrt(8))").stdout == "2*sqrt(2)\n"
        for path in ("/etc/passwd", os.__file__):
            assert sandbox.run(f"open({path!r})").error_line.startswith("PermissionError: [Errno 1]")
    finally:
        sandbox.close()


def test_a_zygote_that_fails_to_start_reports_the_reason() -> None:
    with pytest.raises(SandboxError, match="No module named 'no_such_work'"):
        ZygoteProcess("no_such_work", (), 30.0)


def test_an_unsupported_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "MACHINE", "riscv64")
    with pytest.raises(SandboxUnavailable, match="needs Linux on x86-64 or aarch64, not riscv64"):
        ForkSandbox()
