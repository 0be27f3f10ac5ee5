"""Sees to it that a launcher leaves nothing running, even one that died by kill -9.

A reaper is a child of the launcher and reads its commands on stdin, one a line: `+PGID` and `-PGID` for a process
group that began or ended. End of file means that the launcher is gone, for whatever reason: the groups that are left
get SIGTERM, and SIGKILL after the grace period. It ignores the terminal's Ctrl-C, needs the standard library alone and
works on any Unix.
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
    """Whether a process of this group is left; one that is not ours counts as gone (the number was reused)."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def send(group: int, number: int) -> None:
    """Signal a group; no error where it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def follow(lines: Iterable[str]) -> set[int]:
    """Read commands until the launcher is gone; the groups it left."""
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
    """SIGTERM to every group, SIGKILL to those that are there after `grace_s`."""
    for group in groups:
        send(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(alive(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for group in groups:
        send(group, signal.SIGKILL)


def main() -> None:
    """`python -m arlarena.console.launch.reaper GRACE_S`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end(follow(sys.stdin), float(sys.argv[1]))


if __name__ == "__main__":
    main()
