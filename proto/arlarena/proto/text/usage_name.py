"""How usage lines call a program that the `arlarena` command has started in its place."""

from __future__ import annotations

import os

# Set by the `arlarena` command for the process that it becomes, and for no other.
VARIABLE = "ARLARENA_PROGRAM"


def program(module: str) -> str:
    """What the user typed (`arlarena serve env`), or `python -m MODULE` where the module was started by itself.

    `module`: with its subcommand, if it has one.
    """
    return os.environ.get(VARIABLE) or f"python -m {module}"
