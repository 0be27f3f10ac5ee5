"""Starts the `arlarena` command. `python -m arlarena.console` does the same."""

import signal
import sys
from types import FrameType


def main() -> None:
    """Run the `arlarena` command. SIGINT and SIGTERM end the process without a stack trace, even during the imports."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    from arlarena.console.cli.app import main as command  # importing this module takes about a second

    command()


def _stop(number: int, _frame: FrameType | None) -> None:
    print(f"stopped by {signal.Signals(number).name}", file=sys.stderr)
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
