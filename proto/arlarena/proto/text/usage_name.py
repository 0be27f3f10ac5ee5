"""The program's name in usage texts. It depends on how the user started the program: `arlarena …` or `python -m …`."""

from __future__ import annotations

import os

# The `arlarena` command sets this variable before it executes another program in its process.
VARIABLE = "ARLARENA_PROGRAM"


def program(module: str) -> str:
    """Returns the program's name as the user typed it, such as `arlarena serve env` or `python -m MODULE`.

    `module`: the name of the program's Python module. A subcommand can follow, separated by a space.
    """
    return os.environ.get(VARIABLE) or f"python -m {module}"
