"""The fork sandbox. Each program runs in a locked-down fork of the zygote, a process that has loaded the libraries."""

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
    ResourceUsage,
    SandboxError,
    SandboxHealth,
    SandboxUnavailable,
    signal_name,
)
from arlarena.sandbox.limits import ExecutionLimits
from arlarena.sandbox.lockdown import REQUIRED
from arlarena.sandbox.slots import SlotLimiter
from arlarena.sandbox.zygote import HEADER, READY
from arlarena.sandbox.zygote_client import ForkExit, ZygoteDied, ZygoteProcess

PROGRAM = "arlarena.sandbox.run_program"
# Maximum number of attempts to run a program. If the zygote dies, the sandbox runs the program again. This is safe,
# because programs have no side effects.
TRIES = 3
CHUNK = 1 << 16
RECHECK_S = 0.05  # minimum time between two checks of the wall-clock limit, in seconds


@dataclass(frozen=True, slots=True)
class ForkSettings:
    """Settings of a `ForkSandbox`. Times are in seconds.

    Attributes:
        limits: the default limits of an execution.
        max_running: maximum number of executions at the same time. Further executions wait.
        max_waiting: maximum number of waiting executions. Further calls of `run` raise `SandboxBusy`.
        required: the required layers (names from `lockdown.LAYERS`). If one of them is not available, the sandbox does
            not start.
        start_s: time limit for the start of the zygote.
        begin_s: time limit for the lockdown of a fork, and for the end of a killed fork.
        max_wall_factor: an execution's maximum wall-clock time, including waiting for a CPU, divided by `wall_s`. If an
            execution takes longer, the machine is overloaded, and `run` raises `SandboxError`.
    """

    limits: ExecutionLimits = field(default_factory=ExecutionLimits)
    max_running: int = 4 * (os.cpu_count() or 1)
    max_waiting: int = 1024
    required: tuple[str, ...] = REQUIRED
    start_s: float = 120.0
    begin_s: float = 30.0
    max_wall_factor: float = 6.0


class ForkSandbox:
    """A sandbox that runs each program in its own fork of a zygote. If the zygote dies, starts another. Thread-safe."""

    def __init__(self, settings: ForkSettings | None = None, work: str = PROGRAM) -> None:
        """Start the zygote, which takes a few seconds. `work`: name of a module with a function `load` (see `zygote`).

        Raises:
            SandboxUnavailable: this machine does not support a required layer, or libseccomp is not installed.
            SandboxError: the zygote did not start.
        """
        if not kernel.supported():
            raise SandboxUnavailable(
                f"the fork sandbox needs Linux on x86-64 or aarch64, not {kernel.MACHINE}: either run this server in a "
                "container, or choose backend = 'docker'"
            )
        self._settings = settings or ForkSettings()
        self._work = work
        limits = self._settings.limits
        retry_after_s = max(1.0, limits.wall_s / 2)
        self._slots = SlotLimiter(self._settings.max_running, self._settings.max_waiting, retry_after_s)
        self._replacing = threading.Lock()
        self._restarts, self._closed = 0, False
        self._zygote = self._new()

    def run(self, program: str, before: Sequence[str] = (), limits: ExecutionLimits | None = None) -> Execution:
        """See `Sandbox.run`."""
        return self.run_payload(json.dumps([*before, program]).encode("utf-8", "surrogatepass"), limits)

    def run_payload(self, payload: bytes, limits: ExecutionLimits | None = None) -> Execution:
        """Run the function of the module `work` with `payload` in a fork. Return the result.

        Repeats the execution if the zygote dies. Raises the errors of `run`.
        """
        with self._slots.slot():
            for _ in range(TRIES - 1):
                with contextlib.suppress(ZygoteDied):
                    return self._run_once(payload, limits)
            return self._run_once(payload, limits)

    def health(self) -> SandboxHealth:
        """See `Sandbox.health`."""
        zygote = self._zygote
        running, waiting = self._slots.running, self._slots.waiting
        return SandboxHealth(
            "fork", zygote.alive, zygote.layers, running, waiting, self._restarts, zygote.uid, zygote.warning
        )

    @property
    def zygote_pid(self) -> int:
        """Process id of the zygote."""
        return self._zygote.pid

    def close(self) -> None:
        """See `Sandbox.close`."""
        with self._replacing:
            self._closed = True
            self._zygote.close()

    def _run_once(self, payload: bytes, limits: ExecutionLimits | None) -> Execution:
        run = _Run(self._live_zygote(), payload, limits or self._settings.limits, self._settings)
        try:
            return run.execution()
        except OSError as error:  # this process has no free file descriptor or no free memory
            raise SandboxError(f"the server cannot start an execution: {error}") from error

    def _new(self) -> ZygoteProcess:
        return ZygoteProcess(self._work, self._settings.required, self._settings.start_s)

    def _live_zygote(self) -> ZygoteProcess:
        """Return the zygote. If it has died, start a new zygote.

        Raises:
            SandboxError: the sandbox is closed, or the new zygote did not start.
        """
        with self._replacing:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if not self._zygote.alive:
                self._zygote = self._new()
                self._restarts += 1
            return self._zygote


class _Run:
    """One execution of a program."""

    def __init__(self, zygote: ZygoteProcess, payload: bytes, limits: ExecutionLimits, settings: ForkSettings) -> None:
        self._zygote, self._payload, self._limits, self._begin_s = zygote, payload, limits, settings.begin_s
        self._max_s = settings.max_wall_factor * limits.wall_s
        self._out, self._err = bytearray(), bytearray()
        self._began = self._waited = 0.0
        self._pid = 0

    def execution(self) -> Execution:
        """Fork the zygote, read the program's output until the program ends or reaches a limit, and return the result.

        Raises:
            ZygoteDied: the zygote has died.
            SandboxError: the fork could not start or lock itself down, did not end, or was killed by the kernel.
        """
        with contextlib.ExitStack() as own:
            with contextlib.ExitStack() as of_fork:
                fork_descriptors, pipes = [_close_with(of_fork, _memory_file(self._payload))], {}
                for text in (self._out, self._err):
                    read, write = os.pipe2(os.O_CLOEXEC)
                    pipes[_close_with(own, read)] = text
                    fork_descriptors.append(_close_with(of_fork, write))
                number, future = self._zygote.fork(fork_descriptors, self._limits)
            stopped: Ending | None = "killed"
            try:
                stopped = self._read(pipes, future)
            finally:
                if stopped is not None:
                    self._zygote.kill(number)
            return self._result(self._exit_of(future), stopped)

    def _read(self, pipes: dict[int, bytearray], future: Future[ForkExit]) -> Ending | None:
        """Collect output until the program ends or reaches a limit. Return the limit (`timeout`, `output`) or None.

        `pipes`: {file descriptor: buffer for its output}. `future`: completes when the fork has ended.
        """
        deadline, open_pipes = time.monotonic() + self._begin_s, dict(pipes)
        poll = select.poll()
        for descriptor in open_pipes:
            poll.register(descriptor, select.POLLIN)
        while open_pipes or not future.done():
            for descriptor, _ in poll.poll(1000 * max(0.0, deadline - time.monotonic())) if open_pipes else ():
                chunk = os.read(descriptor, CHUNK)
                open_pipes[descriptor].extend(chunk)
                if not chunk:
                    poll.unregister(descriptor)
                    del open_pipes[descriptor]
            if not open_pipes:  # the program has ended, or it runs with closed output streams
                with contextlib.suppress(TimeoutError):
                    future.exception(max(0.0, deadline - time.monotonic()))
            if not self._began and len(self._out) >= HEADER and self._out.startswith(READY):
                self._begin()
                deadline = self._began + self._limits.wall_s
            if len(self._out) + len(self._err) > self._limits.output_bytes + HEADER:
                return "output"
            if time.monotonic() >= deadline and (open_pipes or not future.done()):
                remaining = self._remaining()
                if remaining <= 0:
                    return "timeout"
                deadline = time.monotonic() + max(remaining, RECHECK_S)
        return None

    def _begin(self) -> None:
        """Start to measure the wall-clock time, because the fork has reported that it is locked down."""
        self._pid = int.from_bytes(self._out[len(READY) : HEADER], "little")
        self._began, self._waited = time.monotonic(), kernel.cpu_wait_s(self._pid)

    def _remaining(self) -> float:
        """Return the time until the wall-clock limit, in seconds. Return 0 if the fork is not locked down yet.

        The time in which the program waits for a CPU does not count. The load of the machine therefore does not change
        the result.

        Raises:
            SandboxError: the execution took `max_wall_factor * wall_s` seconds, including waiting for a CPU.
        """
        if not self._began:
            return 0.0
        elapsed = time.monotonic() - self._began
        remaining = self._limits.wall_s - (elapsed - (kernel.cpu_wait_s(self._pid) - self._waited))
        if remaining > 0 and elapsed >= self._max_s:
            raise SandboxError(
                f"this machine is too busy: a program waited for a CPU in most of {elapsed:.0f} s; either lower "
                "max_running, or run fewer other processes"
            )
        return remaining

    def _exit_of(self, future: Future[ForkExit]) -> ForkExit:
        try:
            ended = future.result(self._begin_s)
        except TimeoutError:
            self._zygote.close()  # this also ends all forks
            raise SandboxError(f"an execution did not end within {self._begin_s:g} s after SIGKILL") from None
        if not self._began:
            error = self._err.decode("utf-8", "replace").strip()
            raise SandboxError(
                f"a fork ended before it was locked down, so it did not run the program: {error or ended}"
            )
        return ended

    def _result(self, ended: ForkExit, stopped: Ending | None) -> Execution:
        ending: Ending = stopped or ("ok" if ended.status == 0 else "error" if ended.status > 0 else "killed")
        # The kernel checks the CPU limit at timer ticks, and may send SIGXCPU some percent too early. SIGXCPU therefore
        # counts as reaching the limit, even if the measured CPU time is below the limit.
        spent = ended.status == -signal.SIGXCPU or ended.cpu_s > self._limits.whole_cpu_s
        hit_cpu_limit = stopped in (None, "timeout") and spent
        if hit_cpu_limit:
            ending = "timeout"
        elif ending == "killed" and stopped is None and ended.status == -signal.SIGKILL:
            raise SandboxError(
                "the kernel killed a program (SIGKILL), probably because memory ran out: either lower max_running or "
                "memory_mb, or give the server more memory"
            )
        streams = bytes(self._out[HEADER:]), bytes(self._err)
        used = ResourceUsage(time.monotonic() - self._began, ended.cpu_s, ended.memory_mb)
        execution = Execution.of(ending, streams, self._limits, signal_name(-ended.status), used)
        return replace(execution, hit_cpu_limit=hit_cpu_limit)


def _close_with(stack: contextlib.ExitStack, descriptor: int) -> int:
    """Make the exit stack close the file descriptor at its end. Return the file descriptor."""
    stack.callback(os.close, descriptor)
    return descriptor


def _memory_file(payload: bytes) -> int:
    """Return the file descriptor of a new file in memory with the payload. The file is sealed: it cannot be changed."""
    descriptor = os.memfd_create("payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(payload)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return descriptor
