"""Wraps an engine: stops all its processes when the engine ends or when the parent process ends, even by SIGKILL.

    python parent_death.py GRACE_S COMMAND …

Standard input is a pipe that the parent holds open and never writes to; end of file means that the parent has ended.
Needs only the standard library and works on any Unix. Must lead its own process group, in which the engine runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def watch(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Wait until the pipe closes, then stop the engine."""
    while os.read(0, 1024):
        pass
    end(process, grace_s)


def end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Send SIGTERM to the group (this process ignores it), and SIGKILL after the grace period."""
    os.killpg(0, signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Run the command. Returns its exit code, or 128 plus the number of the signal that ended it."""
    grace_s, command = float(sys.argv[1]), sys.argv[2:]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to the group, so the engine gets it too
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, args=(process, grace_s), daemon=True).start()
    code = process.wait()
    os.killpg(0, signal.SIGTERM)  # helpers that the engine left behind
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
