"""The zygote: a process that has loaded the libraries. It forks itself for each execution of a program.

    python -m arlarena.sandbox.zygote FD '{"work": "arlarena.sandbox.run_program", "required": []}'

The *server* is the process with the sandbox object. The server and the zygote exchange JSON messages over the socket FD
(sequenced packets):
* To start a fork, the server sends `{"id", "cpu_s", "memory_mb"}` and three file descriptors: payload, standard output
  and standard error.
* To kill a fork, the server sends `{"id", "kill": true}`.
* If a fork could not start, the zygote sends `{"id", "failed"}`.
* When a fork has ended, the zygote sends `{"id", "status", "cpu_s", "memory_mb"}`.

The *payload* is the input of a fork, such as a program. The zygote does not read payloads, so the memory of a new fork
contains no data of other executions. `work` is the name of a module with a function `load()`. This function loads the
libraries. It returns two values: the function that each fork calls with its payload, and the paths that forks may read.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import mmap
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from arlarena.sandbox import identity, kernel, landlock, seccomp
from arlarena.sandbox.execution import SandboxUnavailable
from arlarena.sandbox.lockdown import (
    LockdownPlan,
    address_space,
    isolate,
    lock_down,
)

READY = b"\x06"  # the first byte on a fork's standard output; the fork writes it after the lockdown
PID_BYTES = 4  # after READY, the fork writes its process id (little-endian), and then the program's output
HEADER = len(READY) + PID_BYTES
NOT_LOCKED = 97  # exit code of a fork that could not lock itself down
MAX_MESSAGE = 4096  # bytes of one message


class Zygote:
    """Forks a process for each execution, and reports the end of each fork to the server."""

    def __init__(self, server: socket.socket, plan: LockdownPlan, work: Callable[[bytes], int]) -> None:
        self._server, self._plan, self._work = server, plan, work
        self._running: dict[int, int] = {}  # process id -> id of the execution
        self._wakeup, wakeup_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Handle the server's requests, and report ended forks, until the server disconnects."""
        poll = select.poll()
        poll.register(self._server, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._wakeup:
                    os.read(self._wakeup, 4096)
                elif not self._handle_message():
                    return
            self._reap()

    def _handle_message(self) -> bool:
        """Receive and handle one message of the server. Return False if the server has disconnected."""
        message, descriptors, _, _ = socket.recv_fds(self._server, MAX_MESSAGE, 3)
        if not message:
            return False
        request = json.loads(message)
        if request.get("kill"):
            for pid, number in self._running.items():
                if number == request["id"]:
                    os.kill(pid, signal.SIGKILL)  # the fork is not reaped yet, so its process id is still valid
            return True
        try:
            pid = os.fork()
        except OSError as error:
            self._answer(id=request["id"], failed=str(error))
        else:
            if pid == 0:
                self._run_fork(descriptors, request)
            self._running[pid] = request["id"]
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _run_fork(self, descriptors: Sequence[int], request: dict[str, Any]) -> NoReturn:
        """Read the payload, lock down this fork, write the header, and call `work` with the payload. Then exit.

        `descriptors`: payload, standard output, standard error. Call this method only in a fork.
        """
        code = NOT_LOCKED
        try:
            signal.set_wakeup_fd(-1)
            for name in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(name, signal.SIG_DFL)
            os.setsid()
            payload = self._redirect(descriptors)
            lock_down(self._plan, request["cpu_s"], request["memory_mb"] << 20)
            os.write(1, READY + os.getpid().to_bytes(PID_BYTES, "little"))
            code = self._work(payload)
        except BaseException as error:
            with contextlib.suppress(BaseException):
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)

    def _redirect(self, descriptors: Sequence[int]) -> bytes:
        """Redirect this fork's standard streams, and return the payload.

        `descriptors`: the payload, and the new standard output and standard error. Standard input becomes /dev/null.
        """
        source, out, err = descriptors
        with os.fdopen(os.dup(source), "rb") as file:
            payload = file.read()
        null = os.open(os.devnull, os.O_RDONLY)
        high = [os.dup2(descriptor, 100 + number) for number, descriptor in enumerate((null, out, err))]
        for number, descriptor in enumerate(high):
            os.dup2(descriptor, number)
        return payload

    def _reap(self) -> None:
        """Report the exit status of each ended fork to the server."""
        while self._running:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._running.pop(pid, None)
            if number is not None:
                self._answer(
                    id=number,
                    status=os.waitstatus_to_exitcode(status),
                    cpu_s=usage.ru_utime + usage.ru_stime,
                    memory_mb=usage.ru_maxrss / 1024,
                )

    def _answer(self, **fields: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._server.send(json.dumps(fields).encode())


def prepare(required: frozenset[str], readable: Sequence[Path]) -> tuple[LockdownPlan, list[str]]:
    """Return (the lockdown plan for all forks, the names of the active layers). A test fork checks the layers.

    `required`: the layers that must be active. `readable`: the files and folders that forks may read.

    Raises:
        OSError: a required layer is not available, or a forbidden call succeeded in the test fork.
        SandboxUnavailable: libseccomp or pyseccomp is not installed.
    """
    isolated = isolate()
    kernel.protect_code()
    rules = landlock.ruleset(readable) if landlock.version() else -1
    plan = LockdownPlan(
        filter=seccomp.compile_filter(may_open=rules >= 0),
        rules=rules,
        identity=identity.choose_identity(readable),
        address_space=address_space(),
        zygote=os.getpid(),
        required=required,
    )
    unfinished = b'{"error": "a test fork ended before it was locked down"}'
    result = json.loads(_run_in_fork(lambda: _verify(plan)) or unfinished)
    if "error" in result:
        raise OSError(result["error"])
    layers = [*result["layers"], *(["namespaces"] if isolated else [])]
    if absent := sorted(required - set(layers)):
        reason = f" ({plan.identity.warning})" if "user" in absent and plan.identity.warning else ""
        raise OSError(f"this machine does not support: {', '.join(absent)}{reason}")
    return plan, layers


def _run_in_fork(work: Callable[[], dict[str, Any]]) -> bytes:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        try:
            result = work()
        except BaseException as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        os.write(1, json.dumps(result).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        output = file.read()
    os.waitpid(pid, 0)
    return output


def _verify(plan: LockdownPlan) -> dict[str, Any]:
    """Lock down this test fork, and try forbidden calls. Return {"error": …} if a call succeeds, else {"layers": …}."""
    layers = lock_down(plan, 10, 1 << 30)
    forbidden: list[tuple[str, Callable[[], object]]] = []
    if "seccomp" in layers:
        forbidden += [
            ("a socket", socket.socket),
            ("a process", os.fork),
        ]
    if {"seccomp", "mdwe"} & set(layers):
        forbidden.append(("writable executable memory", lambda: _map_writable_code(os.__file__)))
    if "landlock" in layers:
        forbidden += [("/proc/self/environ", Path("/proc/self/environ").open), ("/", lambda: os.listdir("/"))]
    for name, attempt in forbidden:
        try:
            attempt()
        except OSError:
            continue
        return {"error": f"a locked-down fork could still open or create {name}"}
    if os.getuid() != plan.identity.uid:
        return {"error": f"a locked-down fork runs as uid {os.getuid()}, not {plan.identity.uid}"}
    return {"layers": layers}


def _map_writable_code(path: str) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 1, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def main() -> int:
    """Load the libraries, prepare the lockdown, report to the server that the zygote is ready, and serve requests.

    Returns exit status 0 after the server has disconnected. Returns 1 if this machine does not support a required layer
    of the lockdown (see `lockdown`), libseccomp is not installed, or the test fork fails.
    """
    server = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    work, readable = importlib.import_module(settings["work"]).load()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    try:
        plan, layers = prepare(frozenset(settings["required"]), readable)
    except (OSError, SandboxUnavailable) as error:
        server.send(json.dumps({"unavailable": str(error)}).encode())
        return 1
    zygote = Zygote(server, plan, work)
    gc.collect()
    gc.freeze()  # a garbage collection in a fork would copy all pages of the zygote
    kernel.use_huge_pages()
    ready = {"layers": layers, "uid": plan.identity.uid, "warning": plan.identity.warning}
    server.send(json.dumps(ready).encode())
    zygote.serve()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
