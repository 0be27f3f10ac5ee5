"""Builds command lines to print for the user, with a program name that works in the user's shell."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

NAME = "arlarena"


def command_line(words: Sequence[str], *, anywhere: bool = False) -> str:
    """Returns the command line `arlarena WORDS…`, quoted for a shell.

    The result of `program` replaces the word `arlarena`. `anywhere`: see `program`.
    """
    return shlex.join([*program(sys.argv[0], anywhere=anywhere), *words])


def program(typed: str, *, anywhere: bool = False) -> list[str]:
    """Returns the words that run this program.

    - The user started a file `arlarena` that a shell finds on PATH: `arlarena`.
    - The user started another file `arlarena`: the path of this file.
    - The user started the program in another way: `PYTHON -m arlarena.console`.

    Args:
        typed: `sys.argv[0]`.
        anywhere: True if the words must work in any folder. False if they must work only in the current folder.
    """
    on_path = shutil.which(NAME)
    if os.path.basename(typed) == NAME and os.access(typed, os.X_OK) and os.path.isfile(typed):
        if on_path is not None and os.path.isabs(on_path) and os.path.samefile(typed, on_path):
            return [NAME]
        return [str(Path(typed).absolute()) if anywhere else typed if os.sep in typed else os.path.join(".", typed)]
    return module("arlarena.console")


def module(name: str, *words: str) -> list[str]:
    """Returns the words that run a module with the current Python interpreter."""
    return [sys.executable, "-m", name, *words]
