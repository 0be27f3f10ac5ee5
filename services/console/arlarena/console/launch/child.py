"""One child process: its own session, its log, the address it announces, and a stop that always ends it."""

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
# A line of output longer than this is passed on in pieces; announcements are far shorter.
LINE_LIMIT = 1 << 20
# A grandchild that left the group may hold stdout open after its parent ended: how long its last words are waited for.
OUTPUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """`http://host:port`."""
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to start. `env`: its whole environment, which has the secrets: `argv` is for everybody to see and is
    written to `log`, as is what the process prints.
    """

    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)


def _die_with_parent() -> Callable[[], None] | None:
    """To be run in the child between fork and exec: the kernel then kills it when the launcher dies.

    Linux alone can do that; elsewhere the reaper has to.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def set_death_signal() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the launcher died before the kernel knew what to do then
            os._exit(1)

    return set_death_signal


class ProcessReaper:
    """The launcher's end of the reaper process (see reaper.py). Start it before the first child."""

    def __init__(self, grace_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "arlarena.console.launch.reaper", str(grace_s)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            env=inherited("reaper"),
            text=True,
        )

    def _say(self, line: str) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # somebody killed the reaper: the kernel's death signal is left
            pipe.write(line + "\n")
            pipe.flush()

    def add(self, group: int) -> None:
        """A process group began."""
        self._say(f"+{group}")

    def remove(self, group: int) -> None:
        """A process group ended."""
        self._say(f"-{group}")

    def close(self) -> None:
        """Let the reaper end what is left, and itself."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


class Child:
    """A running process, leader of a session of its own. Make it with `start`."""

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
        """Start `command`.

        Raises:
            OSError: the program cannot be executed, or the log cannot be written.
        """
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with command.log.open("ab", buffering=0) as log:
            log.write(_launch_line(command))
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
            return cls(process, command, reaper, log.tell())

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self.process.pid

    async def _read_output(self) -> None:
        """Append stdout to the log, and take the first announced address from it."""
        assert self.process.stdout is not None
        with self.command.log.open("ab", buffering=0) as log:
            while line := await _next_line(self.process.stdout):
                log.write(line)
                if not self.address.done() and (address := _announced(line)):
                    self.address.set_result(address)

    async def wait(self) -> int:
        """Exit status, negative for a signal. What the process left of its group is killed: it belongs to nobody."""
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
        """SIGKILL to the whole group."""
        self._signal(signal.SIGKILL)

    async def stop(self, grace_s: float) -> int:
        """SIGTERM to the process, SIGKILL to its group after `grace_s`. Its exit status."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), grace_s)
        except TimeoutError:
            self.kill()
        return await self.wait()


async def _next_line(stream: asyncio.StreamReader) -> bytes:
    """The next line, or what there is of one that is too long; empty at the end."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.readexactly(max(1, error.consumed))


def _launch_line(command: ProcessSpec) -> bytes:
    """The command in the log, to be looked at or tried by hand."""
    record = {"ts": round(time.time(), 3), "level": "info", "service": "console", "event": "launch"}
    return msgspec.json.encode(record | {"argv": masked(command.argv)}) + b"\n"


class _Announcement(msgspec.Struct):
    event: str
    host: str
    port: int


def _announced(line: bytes) -> Address | None:
    """The address in a `{"event":"listening","host":…,"port":…}` line."""
    try:
        said = msgspec.json.decode(line, type=_Announcement)
    except msgspec.MsgspecError:
        return None
    return Address(said.host, said.port) if said.event == "listening" else None
