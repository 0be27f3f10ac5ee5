"""Runs a command-line app of this package. Prints one line per error, and returns the exit status."""

from __future__ import annotations

import signal
from typing import Any

import typer

from arlarena.client.errors import ServiceError
from arlarena.proto.config import exit_on_config_error, print_error
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.models.errors import ModelError

# UsageError is the base class of Typer's errors for invalid values, unknown options and missing arguments. Typer does
# not export this class, so it is taken from the base classes of `BadParameter`.
_USAGE_ERROR: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")


def run_app(app: typer.Typer, name: str) -> int:
    """Run a Typer app, and return the exit status.

    The exit status is 2 if the command line or the configuration is wrong, 1 after a failure, and 130 after Ctrl-C.
    Otherwise, the app determines the exit status. `name`: the command as the user typed it, for usage and error
    messages.
    """

    def run() -> int:
        try:
            return int(app(prog_name=name, standalone_mode=False) or 0)
        except _USAGE_ERROR as error:
            path = error.ctx.command_path if error.ctx else name
            print_error(f"{error.format_message().rstrip('.')}; `{path} --help` lists the options")
            return 2
        except typer.Abort:
            print_error("stopped by SIGINT (Ctrl-C)")
            return 128 + signal.SIGINT
        except (EvaluationError, ServiceError, ModelError, OSError) as error:
            print_error(error)
            return 1

    return exit_on_config_error(run)
