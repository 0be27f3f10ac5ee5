"""Stops the child processes of a launcher that has died, even if the launcher was killed with kill -9.

The reaper is a child process of the launcher. It reads one command per line from stdin. `+PGID` reports that a process
group has started. `-PGID` reports that a process group has ended. End of file means that the launcher has exited. The
reaper then sends SIGTERM to the remaining groups, and SIGKILL after the grace period.

The reaper ignores SIGINT, SIGTERM and SIGHUP, because it must not exit before the launcher. It uses only the standard
library and works on any Unix.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

POLL_S = 0.05


def is_running(pgid: int) -> bool:
    """True if a process belongs to the process group with this id.

    Returns False if the group belongs to another user. The launcher's child has then ended, and the system has given
    the same id to another process.
    """
    try:
        os.killpg(pgid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def send(pgid: int, number: int) -> None:
    """Send the signal `number` to a process group. Ignores groups that have ended or belong to another user."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, number)


def read_remaining_groups(lines: Iterable[str]) -> set[int]:
    """Read commands until end of file. Returns the ids of the process groups that have started and not ended."""
    pgids: set[int] = set()
    for line in lines:
        sign, number = line[:1], line[1:].strip()
        if not number.isdigit():
            continue
        if sign == "+":
            pgids.add(int(number))
        elif sign == "-":
            pgids.discard(int(number))
    return pgids


def end(pgids: set[int], grace_s: float) -> None:
    """Send SIGTERM to every process group. After `grace_s`, send SIGKILL to the groups that still run."""
    for pgid in pgids:
        send(pgid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(is_running(pgid) for pgid in pgids) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for pgid in pgids:
        send(pgid, signal.SIGKILL)


def main() -> None:
    """Run the reaper: `python -m arlarena.console.launch.reaper GRACE_S`. `GRACE_S`: the grace period in seconds."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end(read_remaining_groups(sys.stdin), float(sys.argv[1]))


if __name__ == "__main__":
    main()
