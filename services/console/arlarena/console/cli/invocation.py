"""Commands that are printed for the user to type: they begin with the program as the user can call it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

NAME = "arlarena"


def command_line(words: Sequence[str], *, anywhere: bool = False) -> str:
    """`arlarena WORDS…`, quoted for a shell, with the program as `program` gives it."""
    return shlex.join([*program(sys.argv[0], anywhere=anywhere), *words])


def program(typed: str, *, anywhere: bool = False) -> list[str]:
    """The words that call this program: `arlarena` where that is on PATH and is the same file, else the path that the
    user typed, else `PYTHON -m arlarena.console`.

    Args:
        typed: `sys.argv[0]`.
        anywhere: the words must work in any folder, not only in the one where the user is now.
    """
    on_path = shutil.which(NAME)
    if os.path.basename(typed) == NAME and os.access(typed, os.X_OK) and os.path.isfile(typed):
        if on_path is not None and os.path.isabs(on_path) and os.path.samefile(typed, on_path):
            return [NAME]
        return [str(Path(typed).absolute()) if anywhere else typed if os.sep in typed else os.path.join(".", typed)]
    return module("arlarena.console")


def module(name: str, *words: str) -> list[str]:
    """The words that run a module with the Python that runs this one: plain `python` may be another."""
    return [sys.executable, "-m", name, *words]
