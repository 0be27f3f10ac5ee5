"""The zygote: a process that has loaded the libraries once, and is forked for every execution.

    python -m arlarena.sandbox.zygote FD '{"work": "arlarena.sandbox.run_program", "required": []}'

Over the socket FD (sequenced packets) it is sent `{"id", "cpu_s", "memory_mb"}` with three descriptors (payload,
standard output, standard error) to begin an execution and `{"id", "kill": true}` to end one; it answers `{"id",
"failed"}` or, when the process is over, `{"id", "status", "cpu_s", "memory_mb"}`. It never sees a payload: its fork
reads that, so nothing of one execution is in the memory that another starts with. `work` is a module whose `load()`
loads what forks need and returns what they do with a payload, and which files they may read.
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

READY = b"\x06"  # the first byte of standard output: the fork is locked down. The program begins after the header.
PID_BYTES = 4  # the fork's process id, little-endian, which follows it
HEADER = len(READY) + PID_BYTES
NOT_LOCKED = 97  # exit code of a fork that could not lock itself down; read only where READY never came
LONGEST = 4096  # bytes of a message


class Zygote:
    """The parent of all executions."""

    def __init__(self, server: socket.socket, plan: LockdownPlan, work: Callable[[bytes], int]) -> None:
        self._server, self._plan, self._work = server, plan, work
        self._running: dict[int, int] = {}  # process id -> id of the execution
        self._bell, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Fork and bury until the server is gone."""
        poll = select.poll()
        poll.register(self._server, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._bell:
                    os.read(self._bell, 4096)
                elif not self._obey():
                    return
            self._bury()

    def _obey(self) -> bool:
        """Carry out one message; False where the server is gone."""
        message, descriptors, _, _ = socket.recv_fds(self._server, LONGEST, 3)
        if not message:
            return False
        order = json.loads(message)
        if order.get("kill"):
            for pid, number in self._running.items():
                if number == order["id"]:
                    os.kill(pid, signal.SIGKILL)  # not buried yet, so the number is still its own
            return True
        try:
            pid = os.fork()
        except OSError as error:
            self._answer(id=order["id"], failed=str(error))
        else:
            if pid == 0:
                self._become(descriptors, order)
            self._running[pid] = order["id"]
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _become(self, descriptors: Sequence[int], order: dict[str, Any]) -> NoReturn:
        """In the fork: lock down, say so, do the work."""
        code = NOT_LOCKED
        try:
            signal.set_wakeup_fd(-1)
            for name in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(name, signal.SIG_DFL)
            os.setsid()
            payload = self._take(descriptors)
            lock_down(self._plan, order["cpu_s"], order["memory_mb"] << 20)
            os.write(1, READY + os.getpid().to_bytes(PID_BYTES, "little"))
            code = self._work(payload)
        except BaseException as error:
            with contextlib.suppress(BaseException):
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)

    def _take(self, descriptors: Sequence[int]) -> bytes:
        """Read the payload, and put nothing, standard output and standard error in their places."""
        source, out, err = descriptors
        with os.fdopen(os.dup(source), "rb") as file:
            payload = file.read()
        nothing = os.open(os.devnull, os.O_RDONLY)
        high = [os.dup2(one, 100 + place) for place, one in enumerate((nothing, out, err))]
        for place, one in enumerate(high):
            os.dup2(one, place)
        return payload

    def _bury(self) -> None:
        """Report those that have ended."""
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
    """What all forks need, and the layers that are in force in one of them.

    Raises:
        OSError: a required layer cannot be had, or does not hold.
    """
    isolated = isolate()
    kernel.protect_code()
    rules = landlock.ruleset(readable) if landlock.version() else -1
    plan = LockdownPlan(
        filter=seccomp.compiled(may_open=rules >= 0),
        rules=rules,
        identity=identity.choose(readable),
        address_space=address_space(),
        zygote=os.getpid(),
        required=required,
    )
    found = json.loads(_said_by_fork(lambda: _tried(plan)) or b'{"error": "a fork ended before it was locked down"}')
    if "error" in found:
        raise OSError(found["error"])
    layers = [*found["layers"], *(["namespaces"] if isolated else [])]
    if absent := sorted(required - set(layers)):
        because = f" ({plan.identity.warning})" if "user" in absent and plan.identity.warning else ""
        raise OSError(f"this machine does not offer: {', '.join(absent)}{because}")
    return plan, layers


def _said_by_fork(work: Callable[[], dict[str, Any]]) -> bytes:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        try:
            said = work()
        except BaseException as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        os.write(1, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        said_bytes = file.read()
    os.waitpid(pid, 0)
    return said_bytes


def _tried(plan: LockdownPlan) -> dict[str, Any]:
    """Lock down and try the door: a layer that is in force must be felt."""
    layers = lock_down(plan, 10, 1 << 30)
    forbidden: list[tuple[str, Callable[[], object]]] = []
    if "seccomp" in layers:
        forbidden += [
            ("a socket", socket.socket),
            ("a process", os.fork),
        ]
    if {"seccomp", "mdwe"} & set(layers):
        forbidden.append(("writable code", lambda: _map_writable_code(os.__file__)))
    if "landlock" in layers:
        forbidden += [("/proc/self/environ", Path("/proc/self/environ").open), ("/", lambda: os.listdir("/"))]
    for what, attempt in forbidden:
        try:
            attempt()
        except OSError:
            continue
        return {"error": f"a locked fork could still have {what}"}
    if os.getuid() != plan.identity.uid:
        return {"error": f"a locked fork runs as uid {os.getuid()}, not {plan.identity.uid}"}
    return {"layers": layers}


def _map_writable_code(path: str) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 1, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def main() -> int:
    """Load, prepare, say hello, serve."""
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
    gc.freeze()  # a collection in a fork would copy every page that the zygote has
    kernel.use_huge_pages()
    hello = {"layers": layers, "uid": plan.identity.uid, "warning": plan.identity.warning}
    server.send(json.dumps(hello).encode())
    zygote.serve()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
