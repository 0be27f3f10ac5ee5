"""Forks a process for each request, after the imports that the request names (see forking_support.py).

The forking process has no other threads, because a fork copies only one thread.
"""

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
import tempfile
import threading
import traceback
import warnings
from typing import Any, NoReturn

imported: set[str] = set()


def main(listening: socket.socket) -> None:
    """Fork until standard input is closed. The test session closes it at its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children that handle requests
    ready = selectors.DefaultSelector()
    ready.register(listening, selectors.EVENT_READ)
    ready.register(sys.stdin, selectors.EVENT_READ)
    while all(key.fileobj is listening for key, _ in ready.select()):
        connection, _ = listening.accept()
        message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if message:
            request = json.loads(message)
            if import_all(request["modules"]) and os.fork() == 0:
                ready.close()
                listening.close()
                serve(connection, request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.close()


def import_all(modules: list[str]) -> bool:
    """Import the modules that are not imported yet. Returns whether all imports succeeded."""
    missing = [name for name in modules if name not in imported]
    try:
        for name in missing:
            importlib.import_module(name)
            if name.endswith(".__main__"):
                del sys.modules[name]  # otherwise runpy warns that the module is already imported
    except Exception:
        traceback.print_exc()
        return False
    imported.update(missing)
    if missing:
        gc.collect()
        gc.freeze()  # otherwise a garbage collection in a forked process would copy the pages of these objects
    return True


def serve(connection: socket.socket, request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Fork the requested process. Send its process id, and its exit status after its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        connection.close()
        become(request, descriptors)
    for descriptor in (0, 1, 2, *descriptors):
        os.close(descriptor)  # otherwise the reader of the process's output would not see the end of file
    connection.send(pid.to_bytes(8, "big"))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    connection.send(code.to_bytes(8, "big", signed=True))
    os._exit(0)


def become(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Run the requested `python -m` command in this process, and exit with its exit status."""
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    if request["session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None  # choose the folder for temporary files again, by the new variables
    os.chdir(request["cwd"])
    # The same entries as for `python -m`. They replace the first entry, which is the folder of this file.
    sys.path[:1] = [request["cwd"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    module, *sys.argv[1:] = request["command"]
    # runpy warns that the module is imported already: the forking process has imported it.
    warnings.filterwarnings("ignore", ".* found in sys.modules ", RuntimeWarning, "runpy")
    status = status_of(module)
    # The steps of a normal Python exit, except for the destruction of modules. This destruction would copy most memory
    # pages of the forking process.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def status_of(module: str) -> int:
    """Run a module as `__main__`. Return the exit status."""
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
    main(socket.socket(fileno=int(sys.argv[1])))
