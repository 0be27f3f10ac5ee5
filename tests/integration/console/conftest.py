"""A launcher for every test that starts one; what it leaves is ended."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.console.up_support import Up


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    found = Up(tmp_path)
    yield found
    for process in found.processes:
        if process.poll() is None:
            process.kill()
            process.wait()
