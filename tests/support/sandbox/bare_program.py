"""The work of a zygote without libraries: it starts in a fraction of a second, where a test needs none of them."""

from collections.abc import Callable
from pathlib import Path

import numpy.random  # noqa: F401  `run` seeds it

from arlarena.sandbox.run_program import run


def load() -> tuple[Callable[[bytes], int], list[Path]]:
    """As `arlarena.sandbox.run_program.load`: programs may import what the zygote has already, and read no file."""
    return run, []
