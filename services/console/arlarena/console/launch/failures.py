"""Finds in a service's log why the service exited. The result is one line, not a stack trace."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import msgspec

TAIL_BYTES = 64 * 1024
# Log lines to ignore: indented parts of stack traces, structured events and progress bars.
NOISE = re.compile(r"[ \t{]|Traceback|.*\d%\|")
FIELDS_LEFT_OUT = ("ts", "level", "service", "event", "traceback", "stack")


class LaunchError(RuntimeError):
    """The run cannot continue. The message is written for the user.

    `code`: exit status of `arlarena up`. `final`: True if a retry would fail for the same reason.
    """

    def __init__(self, message: str, code: int = 1, *, final: bool = False) -> None:
        super().__init__(message)
        self.code, self.final = code, final


class Stopped(LaunchError):
    """A signal has stopped the run. `code` is 128 + the number of the signal."""

    def __init__(self, number: int, hint: str) -> None:
        key = " (Ctrl-C)" if number == signal.SIGINT else ""
        super().__init__(f"stopped by {signal.Signals(number).name}{key}; {hint}", 128 + number)


def _tail(log: Path, start: int) -> list[str]:
    try:
        with log.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(start, end - TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def _structured(line: str) -> str | None:
    """Returns `event key=value …` if the line is an error event (a JSON object with the level "error"), else None."""
    if not line.startswith("{"):
        return None
    try:
        record = msgspec.json.decode(line, type=dict[str, object])
    except msgspec.MsgspecError:
        return None
    if record.get("level") != "error":
        return None
    details = [f"{key}={value}" for key, value in record.items() if key not in FIELDS_LEFT_OUT]
    return " ".join([str(record.get("event", "error")), *details])


def last_error(log: Path, start: int = 0) -> str:
    """Returns the most informative error line of `log`, starting at byte `start`.

    The result is the first of these texts that exists:

    - the last error event (a JSON object with the level "error")
    - the last line that starts with `error:`
    - the last line that does not match `NOISE`; in a stack trace, this line contains the exception
    - "no output"
    """
    lines = _tail(log, start)
    for line in reversed(lines):
        if (event := _structured(line)) is not None:
            return event
    for line in reversed(lines):
        if line.startswith("error:"):
            return line.removeprefix("error:").strip()
    plain = [line for line in lines if line.strip() and not NOISE.match(line)]
    return plain[-1].strip() if plain else "no output"


def describe_exit(code: int) -> str:
    """Returns text such as `exit status 3` or `killed by SIGKILL`. `code`: exit status, or -n after signal n."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
