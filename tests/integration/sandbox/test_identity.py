"""The user that programs run as: not root if another user can read the libraries, else root with a warning."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.sandbox.sandbox_support import readable_python, wait_until

from arlarena.sandbox import kernel
from arlarena.sandbox.execution import SandboxError, SandboxUnavailable
from arlarena.sandbox.forks import ForkSandbox, ForkSettings
from arlarena.sandbox.identity import NOBODY, Identity, choose_identity
from arlarena.sandbox.limits import ExecutionLimits

pytestmark = [
    pytest.mark.skipif(not kernel.supported(), reason="the sandbox of forks needs Linux on x86-64 or aarch64"),
    pytest.mark.slow,  # zygotes of several users
]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can choose another user for forks")
ROOT = Path(__file__).resolve().parents[3]
OWNER = 12345
WHO = "import os; print(os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups())"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a loaded module; `os.__file__` is patched to be in it too."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "library_of_identity.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(folder))
    importlib.import_module("library_of_identity")
    monkeypatch.delitem(sys.modules, "library_of_identity")
    monkeypatch.setitem(sys.modules, "library_of_identity", importlib.import_module("library_of_identity"))
    monkeypatch.setattr(os, "__file__", str(folder / "library_of_identity.py"))
    return folder


@as_root
@pytest.mark.parametrize(
    ("owner", "group", "rights", "expected"),
    [
        (0, 0, 0o755, (NOBODY, NOBODY)),
        (OWNER, OWNER, 0o755, (NOBODY, NOBODY)),
        (0, OWNER, 0o750, (NOBODY, OWNER)),
        (OWNER, OWNER, 0o700, (OWNER, OWNER)),
        (0, OWNER, 0o700, (0, os.getegid())),
    ],
)
def test_forks_of_root_run_as_the_first_user_that_can_read_the_libraries(
    library: Path, owner: int, group: int, rights: int, expected: tuple[int, int]
) -> None:
    for path in (library, *library.iterdir()):
        os.chown(path, owner, group)
    library.chmod(rights)
    chosen = choose_identity([library])
    assert (chosen.uid, chosen.gid) == expected
    assert bool(chosen.warning) == (expected[0] == 0)
    if chosen.warning:
        assert f"uid {NOBODY} cannot read {library / 'library_of_identity.py'}" in chosen.warning
        assert "Fix: either start the server as an ordinary user" in chosen.warning


@as_root
def test_an_unreadable_file_that_is_not_loaded_does_not_matter(library: Path) -> None:
    (library / "unused.py").touch(0o600)
    assert choose_identity([library]) == Identity(NOBODY, NOBODY)


@as_root
@pytest.mark.parametrize(
    ("capability", "reason"), [(7, "it needs CAP_SETUID"), (6, "it needs CAP_SETUID"), (5, "it has no CAP_KILL")]
)
def test_root_without_the_capability_to_change_users_warns(capability: int, reason: str) -> None:
    held = int(Path("/proc/self/status").read_text().partition("CapPrm:")[2].split()[0], 16)
    low, high = held & 0xFFFFFFFF & ~(1 << capability), held >> 32
    code = (
        "import ctypes\nfrom arlarena.sandbox import kernel\n"
        "from arlarena.sandbox.identity import choose\n"
        f"low, high = {low}, {high}\n"
        "data = (kernel._CapData * 2)((low, low, 0), (high, high, 0))\n"
        "kernel.call(kernel.NUMBERS[kernel.MACHINE]['capset'],\n"
        "            ctypes.byref(kernel._CapHeader(0x20080522, 0)), ctypes.byref(data))\n"
        "chosen = choose([])\nprint(chosen.uid, chosen.warning)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("0 programs run as uid 0: the server may not "), done.stderr
    assert reason in done.stdout


def test_programs_run_as_the_user_in_health_without_other_groups(sandbox: ForkSandbox) -> None:
    health, groups = sandbox.health(), [] if os.geteuid() == 0 else os.getgroups()
    said = sandbox.run(WHO).stdout.split(maxsplit=4)
    assert said[:2] == [str(health.uid)] * 2
    assert said[4] == f"{groups}\n"
    assert ("user" in health.layers) == (os.geteuid() == 0 != health.uid)
    assert bool(health.warning) == (health.uid == 0)


def in_process(python: str, code: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The value of `said` after `code` ran in a separate process, and the events that it logged."""
    path = [entry for entry in sys.path if entry]
    program = (
        f"import sys, json; sys.path[:0] = {path!r}\n"
        "from arlarena.sandbox.forks import ForkSandbox, ForkSettings\n"
        f"{code}\nprint(json.dumps(said))"
    )
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, timeout=120, cwd="/")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), [json.loads(line) for line in done.stderr.splitlines()]


TWO = f"""
first, second = ForkSandbox(), ForkSandbox()
health = first.health()
said = {{"who": first.run({WHO!r}).stdout, "uid": health.uid, "layers": health.layers, "warning": health.warning}}
first.close(); second.close()
"""


@as_root
def test_a_server_of_root_with_readable_libraries_runs_programs_as_nobody() -> None:
    if (python := readable_python()) is None:
        pytest.skip("user 65534 can read no Python of this version here: neither this one nor /usr/bin/python3")
    said, events = in_process(python, TWO)
    assert said["who"] == f"{NOBODY} {NOBODY} {NOBODY} {NOBODY} []\n"
    assert (said["uid"], said["warning"], events) == (NOBODY, "", [])
    assert "user" in said["layers"]


UNREADABLE = """
import builtins, pathlib, tempfile
folder = pathlib.Path(tempfile.mkdtemp()); (folder / "inner").mkdir()
(folder / "inner" / "late.py").write_text("x = 5\\n"); (folder / "inner" / "early.py").write_text("x = 4\\n")
(folder / "private_work.py").write_text(
    "import sys, pathlib\\nfrom arlarena.sandbox import program\\n"
    "inner = pathlib.Path(__file__).parent / 'inner'\\nsys.path.append(str(inner))\\nimport early\\n"
    "def load():\\n    run, readable = program.load()\\n    return run, [*readable, inner]\\n"
)
(folder / "inner").chmod(0o700); folder.chmod(0o755); sys.path.append(str(folder))
"""


@as_root
def test_a_server_of_root_with_unreadable_libraries_runs_programs_as_root_and_warns_once() -> None:
    if (python := readable_python()) is None:
        pytest.skip("user 65534 can read no Python of this version here: neither this one nor /usr/bin/python3")
    code = TWO.replace("ForkSandbox()", "ForkSandbox(ForkSettings(), 'private_work')").replace(
        repr(WHO), repr(f"{WHO}\nimport late; print(late.x)")
    )
    said, events = in_process(python, UNREADABLE + code)
    assert said["who"] == f"0 0 {os.getegid()} {os.getegid()} []\n5\n"
    assert said["uid"] == 0
    assert "inner/early.py" in said["warning"]
    assert [(event["event"], event["level"], event["message"]) for event in events] == [
        ("sandbox_runs_as_root", "warning", said["warning"])
    ]


@as_root
def test_requiring_another_user_without_a_suitable_user_names_the_reason(sandbox: ForkSandbox) -> None:
    if sandbox.health().uid != 0:
        pytest.skip("other users can read this Python")
    with pytest.raises(
        SandboxUnavailable, match=r"does not support: user \(programs run as uid 0: uid 65534 cannot read"
    ):
        ForkSandbox(ForkSettings(required=("seccomp", "user")))


NEIGHBOUR = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
here, theirs = (ctypes.c_size_t * 2)(), (ctypes.c_size_t * 2)(id(None), 8)
buffer = ctypes.create_string_buffer(8); here[:] = ctypes.addressof(buffer), 8
done = []
def tried(name, call, *arguments):
    if call(*arguments) >= 0: done.append(name)
for number in (0, 9, 19):
    tried("kill", libc.kill, {pid}, number); tried("group", libc.killpg, {pid}, number)
    tried("tgkill", libc.syscall, 234, {pid}, {pid}, number)
tried("attach", libc.ptrace, 16, {pid}, None, None); tried("seize", libc.ptrace, 0x4206, {pid}, None, None)
tried("read", libc.process_vm_readv, {pid}, here, 1, theirs, 1, 0)
tried("write", libc.process_vm_writev, {pid}, here, 1, theirs, 1, 0)
tried("limit", libc.prlimit, {pid}, 7, None, here); tried("open", libc.syscall, 434, {pid}, 0)
tried("priority", libc.setpriority, 0, {pid}, 19)
for name in ("mem", "maps", "environ", "cmdline", "fd/1", "root", "cwd"):
    try: os.close(os.open(f"/proc/{pid}/{{name}}", os.O_RDONLY)); done.append(name)
    except OSError: pass
print(done)
"""


def test_a_program_cannot_signal_trace_or_read_another_program() -> None:
    with closing(ForkSandbox()) as sandbox, ThreadPoolExecutor(1) as pool:
        sleeper = pool.submit(sandbox.run, "import time; time.sleep(60)", limits=ExecutionLimits(wall_s=120.0))
        wait_until(lambda: len(psutil.Process(sandbox.zygote_pid).children()) == 1)
        (child,) = psutil.Process(sandbox.zygote_pid).children()
        assert sandbox.run(NEIGHBOUR.replace("{pid}", str(child.pid)).replace("{{name}}", "{name}")).stdout == "[]\n"
        assert child.status() == psutil.STATUS_SLEEPING
        state = dict(line.split(":\t", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())
        assert {int(state[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}
        assert (state["NoNewPrivs"], state["Seccomp"]) == ("1", "2")
        assert set(state["Uid"].split()) == {str(sandbox.health().uid)}
        sandbox.close()
        with pytest.raises(SandboxError):
            sleeper.result(10)
