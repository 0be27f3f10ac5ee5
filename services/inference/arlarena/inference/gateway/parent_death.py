"""Runs an engine. If the engine or the parent process ends, this script stops all processes of the engine. This works
even if the parent is killed by SIGKILL.

    python parent_death.py GRACE_S COMMAND …

The standard input of this process is a pipe from the parent. The parent never writes to the pipe. The pipe closes when
the parent ends. This process must be the leader of a new process group. The engine belongs to the same group. The
script uses only the standard library and works on any Unix.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def watch(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Wait until the pipe on standard input closes, then stop the engine. The pipe closes when the parent process has
    ended. `process`: the engine. `grace_s`: see `end`.
    """
    while os.read(0, 1024):
        pass
    end(process, grace_s)


def end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Send SIGTERM to the process group of this process and the engine. (This process ignores SIGTERM.) If the engine
    `process` still runs after `grace_s` seconds, send SIGKILL to the group.
    """
    os.killpg(0, signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Run the engine's command until it ends. Returns the command's exit code. If a signal ended the command, returns
    128 plus the number of the signal.
    """
    grace_s, command = float(sys.argv[1]), sys.argv[2:]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a signal to the group ends only the engine; this process waits
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, args=(process, grace_s), daemon=True).start()
    code = process.wait()
    os.killpg(0, signal.SIGTERM)  # stops helper processes that the engine left behind
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
