"""Holds an engine: ends all its processes when the engine ends or when whoever started this goes, by kill -9 even.

    python parent_death.py GRACE_S COMMAND …

Its standard input is a pipe that nobody writes to; end of file means that the other side is gone. Needs the standard
library alone and works on any Unix. It has to lead a process group of its own, in which the engine runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def watch(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Wait until the pipe closes, then end the engine."""
    while os.read(0, 1024):
        pass
    end(process, grace_s)


def end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM to the group, of which this process takes no notice; SIGKILL after the grace period."""
    os.killpg(0, signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Run the command; its exit code, or 128 and the number of the signal that ended it."""
    grace_s, command = float(sys.argv[1]), sys.argv[2:]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the group's: the engine has it too
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, args=(process, grace_s), daemon=True).start()
    code = process.wait()
    os.killpg(0, signal.SIGTERM)  # helpers that the engine left behind
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
