"""A busy machine: processes that compute for ever beside what is tested."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def busy_cores(each: int = 1) -> Iterator[None]:
    """Keep every core busy with so many processes."""
    count = each * (os.cpu_count() or 1)
    loops = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
