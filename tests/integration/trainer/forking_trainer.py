"""Starts trainers by forking, torch imported once: reads a JSON list of arguments a line, answers with the child's pid,
and with its exit status when it has ended.
"""

import json
import os
import sys

import arlarena.trainer.assembly  # noqa: F401  what a trainer needs, imported before the fork
from arlarena.proto.config import exit_on_config_error
from arlarena.trainer.__main__ import main


def run(arguments, log):
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    sys.argv = ["trainer", *arguments]
    os._exit(exit_on_config_error(main))


for line in sys.stdin:
    arguments = json.loads(line)
    pid = os.fork()
    if pid == 0:
        run(arguments, sys.argv[1])
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
