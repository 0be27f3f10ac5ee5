"""Shared code of the tests of the sandbox."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest


def wait_until(holds: object, seconds: float = 20.0) -> None:
    assert callable(holds)
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)


def patched_work(monkeypatch: pytest.MonkeyPatch, code: str) -> str:
    """Write a `work` module like `run_program` that also runs `code` at the start of the zygote. Return its name."""
    folder = Path(tempfile.mkdtemp())
    (folder / "patched_work.py").write_text(
        f"import arlarena.sandbox.landlock, arlarena.sandbox.run_program as program\n{code}\nload = program.load\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    return "patched_work"


def readable_python() -> str | None:
    """Return a Python interpreter of this version that other users can run, or None."""
    for path in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        if path is None:
            continue
        code = "import sys; print(sys.version_info[:2] == tuple(map(int, sys.argv[1].split('.'))))"
        version = ".".join(map(str, sys.version_info[:2]))
        try:
            said = subprocess.run(
                [path, "-I", "-c", code, version], user=65534, group=65534, extra_groups=[], capture_output=True
            )
        except OSError:
            continue
        if said.stdout.strip() == b"True":
            return path
    return None
