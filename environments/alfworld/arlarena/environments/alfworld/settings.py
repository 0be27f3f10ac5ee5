"""The environment variable of ALFWorld. Only this module of the environment reads environment variables."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def alfworld_data() -> Path | None:
    """Return the folder that ALFWORLD_DATA names: ALFWorld's tools store games there. Return None if this environment
    variable is not set.
    """
    value = os.environ.get("ALFWORLD_DATA")
    return Path(value).expanduser() if value else None


@contextmanager
def alfworld_import() -> Iterator[None]:
    """Prevent two side effects of importing alfworld: the import creates a folder in the user's home, and it sets
    ALFWORLD_DATA.
    """
    before = os.environ.get("ALFWORLD_DATA")
    os.environ["ALFWORLD_DATA"] = before or tempfile.gettempdir()
    try:
        yield
    finally:
        if before is None:
            del os.environ["ALFWORLD_DATA"]
        else:
            os.environ["ALFWORLD_DATA"] = before
