"""The program name in usage texts. The `arlarena` command and `python -m` give a program different names."""

from __future__ import annotations

import os

# The `arlarena` command sets this variable before it executes another program in its process.
VARIABLE = "ARLARENA_PROGRAM"


def program(module: str) -> str:
    """Returns the command that the user typed: `arlarena serve env`, or `python -m MODULE`.

    `module`: the name of the module, followed by the subcommand if there is one.
    """
    return os.environ.get(VARIABLE) or f"python -m {module}"
