"""Runs an engine. When the engine or the parent process ends, all processes of the engine are stopped. This works even
if the parent is killed by SIGKILL.

    python parent_death.py GRACE_S COMMAND …

The standard input of this process is a pipe. The parent holds the pipe open and never writes to it. The pipe closes
when the parent ends. This process must lead a new process group, which also contains the engine. The module uses only
the standard library and works on any Unix.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def watch(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Wait until the pipe closes, then stop the engine with `end`."""
    while os.read(0, 1024):
        pass
    end(process, grace_s)


def end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Send SIGTERM to the process group. (This process ignores SIGTERM.) Send SIGKILL to the group if the engine still
    runs after `grace_s` seconds.
    """
    os.killpg(0, signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Run the command until its end. Returns the command's exit code, or 128 plus the number of the signal that ended
    the command.
    """
    grace_s, command = float(sys.argv[1]), sys.argv[2:]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a signal to the group ends the engine; this process waits
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, args=(process, grace_s), daemon=True).start()
    code = process.wait()
    os.killpg(0, signal.SIGTERM)  # stops helper processes that the engine left behind
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
