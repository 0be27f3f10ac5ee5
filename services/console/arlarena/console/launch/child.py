"""Starts a child process in its own POSIX session, writes its output to a log, reads its address, and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from arlarena.console.settings import inherited
from arlarena.proto.text.redaction import masked

PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Maximum length of a line of output in bytes. Longer lines are split. Lines that announce an address are much shorter.
LINE_LIMIT = 1 << 20
# After the child's exit, maximum wait for the end of its stdout, in seconds. A descendant may keep stdout open.
OUTPUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """The address at which a service listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """`http://host:port`."""
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class GivenAddress:
    """The address of a service that the launcher does not start. `url`: without a slash at the end."""

    url: str


AnyAddress = Address | GivenAddress


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to start.

    `argv`: the command line. It must not contain secrets, because all users of the machine can see it, and because it
    is written to `log`. `env`: all environment variables of the process, including secrets. `log`: the file for the
    process's output.
    """

    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)


def _die_with_parent() -> Callable[[], None] | None:
    """Returns a function for the child to call between fork and exec, or None if the system is not Linux.

    The function makes the kernel kill the child when the launcher dies. On other systems, the reaper stops the child.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def set_death_signal() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the launcher died before prctl was called
            os._exit(1)

    return set_death_signal


class ProcessReaper:
    """Starts the reaper process and sends commands to it. The reaper stops the children if the launcher dies.

    Create this object before the first child.
    """

    def __init__(self, grace_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "arlarena.console.launch.reaper", str(grace_s)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            env=inherited("reaper"),
            text=True,
        )

    def _send(self, line: str) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(
            BrokenPipeError
        ):  # the reaper was killed; on Linux, the kernel then kills the children
            pipe.write(line + "\n")
            pipe.flush()

    def add(self, group: int) -> None:
        """Tell the reaper that a process group has started. `group`: the id of the process group."""
        self._send(f"+{group}")

    def remove(self, group: int) -> None:
        """Tell the reaper that a process group has ended. `group`: the id of the process group."""
        self._send(f"-{group}")

    def close(self) -> None:
        """Make the reaper stop the remaining process groups and exit."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


class Child:
    """A running process, the leader of its own POSIX session. Create it with `start`.

    `log_start`: the byte offset in the log at which this process's output starts. `started`: start time in seconds
    since the epoch. `address`: a future. Its result is the address that the process announces on stdout.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, command: ProcessSpec, reaper: ProcessReaper, log_start: int
    ) -> None:
        self.process, self.command, self.log_start = process, command, log_start
        self.started = time.time()
        self._reaper, self._ended = reaper, False
        self.address: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read_output())

    @classmethod
    async def start(cls, command: ProcessSpec, reaper: ProcessReaper) -> Child:
        """Start `command`. Returns the running process.

        Raises:
            OSError: the program cannot be executed, or the log cannot be written.
        """
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with command.log.open("ab", buffering=0) as log:
            log.write(_launch_line(command))
            log_start = log.tell()  # read before the process starts, because its output moves this position
            process = await asyncio.create_subprocess_exec(
                *command.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=command.env,
                start_new_session=True,
                preexec_fn=_die_with_parent(),
                limit=LINE_LIMIT,
            )
            reaper.add(process.pid)
            return cls(process, command, reaper, log_start)

    @property
    def pid(self) -> int:
        """The process id. It is also the id of the process group."""
        return self.process.pid

    async def _read_output(self) -> None:
        """Copy stdout to the log. Set `address` to the first announced address."""
        assert self.process.stdout is not None
        with self.command.log.open("ab", buffering=0) as log:
            while line := await _next_line(self.process.stdout):
                log.write(line)
                if not self.address.done() and (address := _announced(line)):
                    self.address.set_result(address)

    async def wait(self) -> int:
        """Wait until the process exits, then kill the remaining processes of its group. Returns the exit status.

        The exit status is -n if signal n ended the process.
        """
        code = await self.process.wait()
        if not self._ended:
            self._ended = True
            self._signal(signal.SIGKILL)
            self._reaper.remove(self.pid)
        await asyncio.wait([self._reader], timeout=OUTPUT_S)
        self._reader.cancel()
        self.address.cancel()
        return code

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL to the process group."""
        self._signal(signal.SIGKILL)

    async def stop(self, grace_s: float) -> int:
        """Stop the process. Returns the exit status.

        Sends SIGTERM to the process. If the process still runs after `grace_s` seconds, sends SIGKILL to its process
        group. After the process has exited, the rest of the group gets SIGKILL.
        """
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), grace_s)
        except TimeoutError:
            self.kill()
        return await self.wait()


async def _next_line(stream: asyncio.StreamReader) -> bytes:
    """Returns the next line. A line above `LINE_LIMIT` is returned in parts. Returns b"" at the end of the stream."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.readexactly(max(1, error.consumed))


def _launch_line(command: ProcessSpec) -> bytes:
    """Returns a line for the log with the command line. Secrets are masked."""
    record = {"ts": round(time.time(), 3), "level": "info", "service": "console", "event": "launch"}
    return msgspec.json.encode(record | {"argv": masked(command.argv)}) + b"\n"


class _Announcement(msgspec.Struct):
    event: str
    host: str
    port: int


def _announced(line: bytes) -> Address | None:
    """Returns the address in a line `{"event":"listening","host":…,"port":…}`. Returns None for other lines."""
    try:
        record = msgspec.json.decode(line, type=_Announcement)
    except msgspec.MsgspecError:
        return None
    return Address(record.host, record.port) if record.event == "listening" else None
