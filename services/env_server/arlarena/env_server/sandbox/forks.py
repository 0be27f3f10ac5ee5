"""The sandbox of forks: each program in a fork of the zygote that has locked itself down."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass, field

from arlarena.env_server.sandbox import kernel
from arlarena.env_server.sandbox.admission import Admission
from arlarena.env_server.sandbox.execution import (
    Ending,
    Execution,
    Health,
    Limits,
    SandboxError,
    SandboxUnavailable,
    Used,
    signal_name,
)
from arlarena.env_server.sandbox.lockdown import REQUIRED
from arlarena.env_server.sandbox.process import Ended, ZygoteDied, ZygoteProcess
from arlarena.env_server.sandbox.zygote import READY

PROGRAM = "arlarena.env_server.sandbox.program"
TRIES = 3  # a program that was running when the zygote died is run again: nobody has seen anything of it
CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class ForkSettings:
    """How a `ForkSandbox` works. Times are in seconds.

    Attributes:
        limits: of an execution that names none.
        max_running: executions at a time; the others wait.
        max_waiting: how many may wait before one is refused.
        required: layers of `lockdown.LAYERS` without which nothing is run.
        start_s: how long the zygote may take to load its libraries.
        begin_s: how long a fork may take until it is locked down; then something is wrong with the zygote.
    """

    limits: Limits = field(default_factory=Limits)
    max_running: int = 4 * (os.cpu_count() or 1)
    max_waiting: int = 1024
    required: tuple[str, ...] = REQUIRED
    start_s: float = 120.0
    begin_s: float = 30.0


class ForkSandbox:
    """A zygote, replaced when it dies, and the executions that are under way."""

    def __init__(self, settings: ForkSettings | None = None, work: str = PROGRAM) -> None:
        """Start the zygote: some seconds.

        Raises:
            SandboxUnavailable: this machine cannot give the required layers.
            SandboxError: the zygote did not start.
        """
        if not kernel.supported():
            raise SandboxUnavailable(
                f"the sandbox of forks needs Linux on x86-64 or aarch64, not {kernel.MACHINE}: run this server in a "
                "container, or choose backend = 'docker'"
            )
        self._settings = settings or ForkSettings()
        self._work = work
        limits = self._settings.limits
        self._admission = Admission(self._settings.max_running, self._settings.max_waiting, max(1.0, limits.wall_s / 2))
        self._replacing = threading.Lock()
        self._restarts, self._closed = 0, False
        self._zygote = self._new()

    def run(self, program: str, before: Sequence[str] = (), limits: Limits | None = None) -> Execution:
        """See `Sandbox.run`."""
        return self.carry_out(json.dumps([*before, program]).encode("utf-8", "surrogatepass"), limits)

    def carry_out(self, payload: bytes, limits: Limits | None = None) -> Execution:
        """What the zygote's work makes of a payload. Errors as in `run`."""
        with self._admission.place():
            for _ in range(TRIES - 1):
                with contextlib.suppress(ZygoteDied):
                    return self._once(payload, limits)
            return self._once(payload, limits)

    def health(self) -> Health:
        """See `Sandbox.health`."""
        zygote = self._zygote
        admission = self._admission
        return Health("fork", zygote.alive, zygote.layers, admission.running, admission.waiting, self._restarts)

    @property
    def zygote_pid(self) -> int:
        """The zygote's process id."""
        return self._zygote.pid

    def close(self) -> None:
        """See `Sandbox.close`."""
        with self._replacing:
            self._closed = True
            self._zygote.close()

    def _once(self, payload: bytes, limits: Limits | None) -> Execution:
        run = _Run(self._living(), payload, limits or self._settings.limits, self._settings.begin_s)
        try:
            return run.execution()
        except OSError as error:  # this server's own: no descriptor or no memory is left
            raise SandboxError(f"the server cannot begin an execution: {error}") from error

    def _new(self) -> ZygoteProcess:
        return ZygoteProcess(self._work, self._settings.required, self._settings.start_s)

    def _living(self) -> ZygoteProcess:
        """The zygote; another one if it has died."""
        with self._replacing:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if not self._zygote.alive:
                self._zygote = self._new()
                self._restarts += 1
            return self._zygote


class _Run:
    """One execution under way."""

    def __init__(self, zygote: ZygoteProcess, payload: bytes, limits: Limits, begin_s: float) -> None:
        self._zygote, self._payload, self._limits, self._begin_s = zygote, payload, limits, begin_s
        self._out, self._err = bytearray(), bytearray()
        self._began = 0.0

    def execution(self) -> Execution:
        """Fork, read until the end or a limit, and say how it went."""
        with contextlib.ExitStack() as ours:
            with contextlib.ExitStack() as theirs:
                given, ends = [_closing(theirs, _sealed(self._payload))], {}
                for text in (self._out, self._err):
                    read, write = os.pipe2(os.O_CLOEXEC)
                    ends[_closing(ours, read)] = text
                    given.append(_closing(theirs, write))
                number, future = self._zygote.fork(given, self._limits)
            stopped: Ending | None = "killed"
            try:
                stopped = self._read(ends, future)
            finally:
                if stopped is not None:
                    self._zygote.end(number)
            return self._told(self._ended(future), stopped)

    def _read(self, ends: dict[int, bytearray], future: Future[Ended]) -> Ending | None:
        """Collect what is written until it has ended; the reason, where it has to be stopped."""
        deadline, left = time.monotonic() + self._begin_s, dict(ends)
        poll = select.poll()
        for descriptor in left:
            poll.register(descriptor, select.POLLIN)
        while left:
            for descriptor, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                chunk = os.read(descriptor, CHUNK)
                left[descriptor].extend(chunk)
                if not chunk:
                    poll.unregister(descriptor)
                    del left[descriptor]
            if not self._began and self._out.startswith(READY):
                self._began = time.monotonic()
                deadline = self._began + self._limits.wall_s
            if len(self._out) + len(self._err) > self._limits.output_bytes + len(READY):
                return "output"
            if time.monotonic() >= deadline:
                return "timeout"
        with contextlib.suppress(TimeoutError):  # it may have closed its streams and go on
            future.exception(max(0.0, deadline - time.monotonic()))
            return None
        return "timeout"

    def _ended(self, future: Future[Ended]) -> Ended:
        try:
            ended = future.result(self._begin_s)
        except TimeoutError:
            self._zygote.close()  # what cannot be ended is ended with its parent
            raise SandboxError(f"an execution could not be ended within {self._begin_s:g} s") from None
        if not self._began:
            said = self._err.decode("utf-8", "replace").strip()
            raise SandboxError(f"an execution was not locked down, and ran nothing: {said or ended}")
        return ended

    def _told(self, ended: Ended, stopped: Ending | None) -> Execution:
        ending: Ending = stopped or ("ok" if ended.status == 0 else "error" if ended.status > 0 else "killed")
        if ending == "killed" and ended.cpu_s >= self._limits.cpu_s - 0.1:  # by the kernel, at its limit
            ending = "timeout"
        streams = bytes(self._out[len(READY) :]), bytes(self._err)
        used = Used(time.monotonic() - self._began, ended.cpu_s, ended.memory_mb)
        return Execution.of(ending, streams, self._limits, signal_name(-ended.status), used)


def _closing(stack: contextlib.ExitStack, descriptor: int) -> int:
    """The descriptor, which the stack closes."""
    stack.callback(os.close, descriptor)
    return descriptor


def _sealed(payload: bytes) -> int:
    """A descriptor that gives the payload, and through which nobody can write."""
    descriptor = os.memfd_create("payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(payload)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return descriptor
