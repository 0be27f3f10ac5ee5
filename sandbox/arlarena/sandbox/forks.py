"""The sandbox of forks: each program in a fork of the zygote that has locked itself down."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass, field, replace

from arlarena.sandbox import kernel
from arlarena.sandbox.execution import (
    Ending,
    Execution,
    SandboxError,
    SandboxHealth,
    SandboxUnavailable,
    Used,
    signal_name,
)
from arlarena.sandbox.limits import ExecutionLimits
from arlarena.sandbox.lockdown import REQUIRED
from arlarena.sandbox.slots import Admission
from arlarena.sandbox.zygote import HEADER, READY
from arlarena.sandbox.zygote_client import Ended, ZygoteDied, ZygoteProcess

PROGRAM = "arlarena.sandbox.run_program"
TRIES = 3  # a program that was running when the zygote died is run again: nobody has seen anything of it
CHUNK = 1 << 16
RECHECK_S = 0.05  # between looks at how long a program has waited for a processor


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
        patience: how many times its `wall_s` an execution may take by the clock where it waits for a processor that
            others use; then this machine has too much to do, and the execution is a `SandboxError`.
    """

    limits: ExecutionLimits = field(default_factory=ExecutionLimits)
    max_running: int = 4 * (os.cpu_count() or 1)
    max_waiting: int = 1024
    required: tuple[str, ...] = REQUIRED
    start_s: float = 120.0
    begin_s: float = 30.0
    patience: float = 6.0


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

    def run(self, program: str, before: Sequence[str] = (), limits: ExecutionLimits | None = None) -> Execution:
        """See `Sandbox.run`."""
        return self.carry_out(json.dumps([*before, program]).encode("utf-8", "surrogatepass"), limits)

    def carry_out(self, payload: bytes, limits: ExecutionLimits | None = None) -> Execution:
        """What the zygote's work makes of a payload. Errors as in `run`."""
        with self._admission.place():
            for _ in range(TRIES - 1):
                with contextlib.suppress(ZygoteDied):
                    return self._once(payload, limits)
            return self._once(payload, limits)

    def health(self) -> SandboxHealth:
        """See `Sandbox.health`."""
        zygote = self._zygote
        admission = self._admission
        running, waiting = admission.running, admission.waiting
        return SandboxHealth(
            "fork", zygote.alive, zygote.layers, running, waiting, self._restarts, zygote.uid, zygote.warning
        )

    @property
    def zygote_pid(self) -> int:
        """The zygote's process id."""
        return self._zygote.pid

    def close(self) -> None:
        """See `Sandbox.close`."""
        with self._replacing:
            self._closed = True
            self._zygote.close()

    def _once(self, payload: bytes, limits: ExecutionLimits | None) -> Execution:
        run = _Run(self._living(), payload, limits or self._settings.limits, self._settings)
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

    def __init__(self, zygote: ZygoteProcess, payload: bytes, limits: ExecutionLimits, settings: ForkSettings) -> None:
        self._zygote, self._payload, self._limits, self._begin_s = zygote, payload, limits, settings.begin_s
        self._longest_s = settings.patience * limits.wall_s
        self._out, self._err = bytearray(), bytearray()
        self._began = self._waited = 0.0
        self._pid = 0

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
        while left or not future.done():
            for descriptor, _ in poll.poll(1000 * max(0.0, deadline - time.monotonic())) if left else ():
                chunk = os.read(descriptor, CHUNK)
                left[descriptor].extend(chunk)
                if not chunk:
                    poll.unregister(descriptor)
                    del left[descriptor]
            if not left:  # it has ended, or has closed its streams and goes on
                with contextlib.suppress(TimeoutError):
                    future.exception(max(0.0, deadline - time.monotonic()))
            if not self._began and len(self._out) >= HEADER and self._out.startswith(READY):
                self._begin()
                deadline = self._began + self._limits.wall_s
            if len(self._out) + len(self._err) > self._limits.output_bytes + HEADER:
                return "output"
            if time.monotonic() >= deadline and (left or not future.done()):
                remaining = self._remaining()
                if remaining <= 0:
                    return "timeout"
                deadline = time.monotonic() + max(remaining, RECHECK_S)
        return None

    def _begin(self) -> None:
        """The fork is locked down, and its time begins."""
        self._pid = int.from_bytes(self._out[len(READY) : HEADER], "little")
        self._began, self._waited = time.monotonic(), kernel.waited_s(self._pid)

    def _remaining(self) -> float:
        """Seconds that are left of its time by the clock. Those in which it could have computed, but others did, do not
        count: a program ends in the same way on a busy machine.

        Raises:
            SandboxError: it has waited for a processor for too long.
        """
        if not self._began:
            return 0.0
        taken = time.monotonic() - self._began
        remaining = self._limits.wall_s - (taken - (kernel.waited_s(self._pid) - self._waited))
        if remaining > 0 and taken >= self._longest_s:
            raise SandboxError(
                f"this machine is too busy: an execution waited for a processor for most of {taken:.0f} s; lower "
                "max_running, or run fewer processes beside this server"
            )
        return remaining

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
        # The kernel counts computing by ticks: it may end a program some percent before what it reports then.
        spent = ended.status == -signal.SIGXCPU or ended.cpu_s > self._limits.whole_cpu_s
        computed = stopped in (None, "timeout") and spent
        if computed:
            ending = "timeout"
        elif ending == "killed" and stopped is None and ended.status == -signal.SIGKILL:
            raise SandboxError(
                "an execution was killed by this machine (SIGKILL), most likely as its memory ran out: lower "
                "max_running or memory_mb, or give the server more memory"
            )
        streams = bytes(self._out[HEADER:]), bytes(self._err)
        used = Used(time.monotonic() - self._began, ended.cpu_s, ended.memory_mb)
        execution = Execution.of(ending, streams, self._limits, signal_name(-ended.status), used)
        return replace(execution, computed_too_long=computed)


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
