"""`python -m arlarena.rollout.evaluation MODEL --env NAME …`: evaluate any model (see `command.py`)."""

from __future__ import annotations

import sys

from arlarena.proto.text.usage_name import program
from arlarena.rollout.evaluation.command import app
from arlarena.rollout.evaluation.usage import run_app


def main() -> int:
    """Run the command. Returns the exit status; 2 if an option is wrong."""
    return run_app(app, program("arlarena.rollout.evaluation"))


if __name__ == "__main__":
    sys.exit(main())
