"""Imports modules, then forks a process for each request (see forking_support.py). No threads: it forks."""

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from typing import Any, NoReturn


def main(listening: socket.socket) -> None:
    """Fork until standard input is closed; the test session holds its other end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process waits for the children that handle requests
    waiting = selectors.DefaultSelector()
    waiting.register(listening, selectors.EVENT_READ)
    waiting.register(sys.stdin, selectors.EVENT_READ)
    while all(key.fileobj is listening for key, _ in waiting.select()):
        connection, _ = listening.accept()
        if os.fork() == 0:
            waiting.close()
            listening.close()
            serve(connection)
        connection.close()


def serve(connection: socket.socket) -> NoReturn:
    """Fork the requested process and report how it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    pid = os.fork()
    if pid == 0:
        connection.close()
        become(json.loads(message), descriptors)
    for descriptor in (0, 1, 2, *descriptors):
        os.close(descriptor)  # so that the process's reader sees end of file
    connection.send(pid.to_bytes(8, "big"))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    connection.send(code.to_bytes(8, "big", signed=True))
    os._exit(0)


def become(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Run `python -m` as requested, to its end."""
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    if request["session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    module, *sys.argv[1:] = request["command"]
    status = status_of(module)
    # Python's shutdown without the teardown of modules, which would copy most pages of the forking process.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def status_of(module: str) -> int:
    """The exit status of running a module as `__main__`."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    listening = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        importlib.import_module(name)
        if name.endswith(".__main__"):
            del sys.modules[name]  # runpy warns if the module has been imported
    gc.collect()
    gc.freeze()  # garbage collections in forked processes skip these objects; they would copy their pages
    main(listening)
