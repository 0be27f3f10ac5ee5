"""`python -m arlarena.rollout.evaluation MODEL --env NAME …`: evaluate any model (see `command.py`)."""

from __future__ import annotations

import sys

from arlarena.client.errors import ServiceError
from arlarena.proto.config import exit_on_config_error, print_error
from arlarena.proto.text.usage_name import program
from arlarena.rollout.evaluation.command import app
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.models.protocol import ModelError


def main() -> int:
    """Run the command. Returns the exit status; 2 if an option is wrong."""

    def run() -> int:
        try:
            return int(app(prog_name=program("arlarena.rollout.evaluation"), standalone_mode=False) or 0)
        except (EvaluationError, ServiceError, ModelError) as error:
            print_error(error)
            return 1

    return exit_on_config_error(run)


if __name__ == "__main__":
    sys.exit(main())
