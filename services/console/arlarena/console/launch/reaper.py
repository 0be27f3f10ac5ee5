"""Stops the child processes of a launcher that has died, even if the launcher was killed with kill -9.

The reaper is a child process of the launcher. It reads one command per line from stdin: `+PGID` for a process group
that started, `-PGID` for a process group that ended. End of file means that the launcher has exited. The reaper then
sends SIGTERM to the remaining groups, and SIGKILL after the grace period. The reaper ignores SIGINT from the terminal,
needs only the standard library and works on any Unix.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

POLL_S = 0.05


def alive(group: int) -> bool:
    """True if the process group has a process. A group of another user counts as dead: its number was reused."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def send(group: int, number: int) -> None:
    """Send the signal `number` to a process group. Does nothing if the group has no process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def read_remaining_groups(lines: Iterable[str]) -> set[int]:
    """Read commands until end of file. Returns the process groups that started and did not end."""
    groups: set[int] = set()
    for line in lines:
        sign, number = line[:1], line[1:].strip()
        if not number.isdigit():
            continue
        if sign == "+":
            groups.add(int(number))
        elif sign == "-":
            groups.discard(int(number))
    return groups


def end(groups: set[int], grace_s: float) -> None:
    """Send SIGTERM to every process group. After `grace_s`, send SIGKILL to the groups that still run."""
    for group in groups:
        send(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(alive(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for group in groups:
        send(group, signal.SIGKILL)


def main() -> None:
    """Run `python -m arlarena.console.launch.reaper GRACE_S`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end(read_remaining_groups(sys.stdin), float(sys.argv[1]))


if __name__ == "__main__":
    main()
