"""Imports modules, then forks a process for each request (see forking_support.py). No threads: it forks."""

import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys


def main(listening: socket.socket) -> None:
    """Fork until the standard input, the other end of which the session holds, is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that serve a request
    waiting = selectors.DefaultSelector()
    waiting.register(listening, selectors.EVENT_READ)
    waiting.register(sys.stdin, selectors.EVENT_READ)
    while all(key.fileobj is listening for key, _ in waiting.select()):
        connection, _ = listening.accept()
        if os.fork() == 0:
            waiting.close()
            listening.close()
            serve(connection)
            return
        connection.close()


def serve(connection: socket.socket) -> None:
    """Fork the process that was asked for and say how it ends; return in it, run to its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    pid = os.fork()
    if pid == 0:
        connection.close()
        become(json.loads(message), descriptors)
        return
    for descriptor in (0, 1, 2, *descriptors):
        os.close(descriptor)  # whoever reads from the process must see that it has closed them
    connection.send(pid.to_bytes(8, "big"))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    connection.send(code.to_bytes(8, "big", signed=True))
    os._exit(0)


def become(request: dict, descriptors: list[int]) -> None:
    """Run `python -m` as requested; ends by SystemExit, or as an exception ends a Python."""
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    if request["session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    module, *sys.argv[1:] = request["command"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    listening = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        importlib.import_module(name)
    main(listening)
