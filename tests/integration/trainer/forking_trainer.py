"""Starts trainers by forking, with torch imported once.

Reads one JSON object a line: the `arguments` of a trainer and the `log` that its stderr goes to. Writes `started PID`
for each, in order, and `ended PID STATUS` when one has ended, STATUS as waitpid gives it.
"""

import json
import os
import sys
import threading

import arlarena.trainer.assembly  # noqa: F401  what a trainer needs, imported before the fork
from arlarena.proto.config import exit_on_config_error
from arlarena.trainer.__main__ import main


def say(text):
    """Without the lock of a Python stream, which a fork may copy while it is held."""
    os.write(1, f"{text}\n".encode())


def run(arguments, log):
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    sys.argv = ["trainer", *arguments]
    os._exit(exit_on_config_error(main))


def report_end(pid):
    say(f"ended {pid} {os.waitpid(pid, 0)[1]}")


for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid == 0:
        run(request["arguments"], request["log"])
    say(f"started {pid}")
    threading.Thread(target=report_end, args=(pid,), daemon=True).start()
