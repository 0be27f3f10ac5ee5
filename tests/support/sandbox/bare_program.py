"""The `work` module of a zygote without libraries. Such a zygote starts in a fraction of a second."""

from collections.abc import Callable
from pathlib import Path

import numpy.random  # noqa: F401  `run` seeds it

from arlarena.sandbox.run_program import run


def load() -> tuple[Callable[[bytes], int], list[Path]]:
    """Like `arlarena.sandbox.run_program.load`, but programs can read no files and import only loaded modules."""
    return run, []
