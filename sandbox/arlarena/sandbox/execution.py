"""The interface of all sandboxes: requests, results and errors."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from arlarena.sandbox.limits import ExecutionLimits

Ending = Literal["ok", "error", "timeout", "output", "killed"]


class SandboxError(RuntimeError):
    """The sandbox failed, so there is no result of the program. A retry may succeed."""


class SandboxBusy(SandboxError):
    """Too many programs wait for a slot. Retry after `retry_after_s` seconds."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(
            f"{waiting} programs are already waiting for the sandbox: either retry in {retry_after_s:g} s, or raise "
            "max_running or max_waiting"
        )
        self.retry_after_s = retry_after_s


class SandboxUnavailable(SandboxError):
    """This machine cannot provide the required protection. The message names the missing protection."""


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """The resources that an execution used.

    `wall_s`, `cpu_s`: wall-clock time and CPU time in seconds. `memory_mb`: peak memory in MiB, including the memory of
    the libraries. A value is None if the sandbox cannot measure it.
    """

    wall_s: float
    cpu_s: float | None = None
    memory_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """The result of running a program.

    Attributes:
        ending: how the program ended. `ok`: exit code 0; `error`: an exception, or another exit code; `timeout`: the
            limit of wall-clock time or CPU time was reached; `output`: the output exceeded `output_bytes`; `killed`: a
            signal ended the program.
        stdout, stderr: the program's output as text. Together they have at most `output_bytes` bytes.
        detail: if `ending` is `timeout`, `output` or `killed`, a sentence about the cause; else "".
        used: the resources that the program used.
        hit_cpu_limit: whether the program reached the limit of CPU time. Always False in containers.
    """

    ending: Ending
    stdout: str
    stderr: str
    detail: str
    used: ResourceUsage
    hit_cpu_limit: bool = False

    @classmethod
    def of(
        cls, ending: Ending, streams: tuple[bytes, bytes], limits: ExecutionLimits, signal: str, used: ResourceUsage
    ) -> Execution:
        """Return a result. `streams`: standard output and standard error. Bytes beyond the output limit are dropped.

        `signal`: if `ending` is `killed`, the name of the signal that ended the program. Otherwise it is not used.
        """
        details: dict[Ending, str] = {
            "timeout": (
                f"TimeoutError: the program took more than {limits.wall_s:g} s of wall-clock time "
                f"or {limits.cpu_s:g} s of CPU time"
            ),
            "output": f"OutputError: the program wrote more than {limits.output_bytes} bytes",
            "killed": f"ProcessError: the program was ended by {signal}",
        }
        out = streams[0][: limits.output_bytes]
        err = streams[1][: limits.output_bytes - len(out)]
        return cls(
            ending, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), details.get(ending, ""), used
        )

    @property
    def error_line(self) -> str:
        """One line that says why the program failed; "" if `ending` is `ok`.

        If `ending` is `error`, this is the last line of standard error, which contains the error's type and message.
        For other endings, or if standard error is empty, it is `detail`.
        """
        if self.ending == "ok":
            return ""
        lines = self.stderr.strip().splitlines()
        return lines[-1].strip() if self.ending == "error" and lines else self.detail


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True, slots=True)
class SandboxHealth:
    """The state of a sandbox.

    Attributes:
        backend: `fork` or `docker`.
        alive: whether the sandbox can run programs now.
        layers: the active protection layers. A `fork` sandbox has tested some of them with forbidden calls.
        running: number of programs that run now.
        waiting: number of programs that wait for a slot.
        restarts: how often a `fork` sandbox has replaced a dead zygote (the process that it forks for each program).
            Always 0 for `docker`.
        uid: id of the user that runs the programs.
        warning: if this user is root, the reason and the fix; else "".
    """

    backend: str
    alive: bool
    layers: tuple[str, ...]
    running: int
    waiting: int
    restarts: int
    uid: int
    warning: str = ""


class Sandbox(Protocol):
    """The interface of all sandboxes. A sandbox runs each program in its own process, and is thread-safe."""

    def run(self, program: str, before: Sequence[str] = (), limits: ExecutionLimits | None = None) -> Execution:
        """Run the Python source code `program` in a new process. Return the result.

        The programs in `before` run first, in the same process and with the same global variables. Their output and
        their errors are dropped, but their time counts towards the limits. `limits` defaults to the sandbox's limits.

        Raises:
            SandboxBusy: too many programs are waiting for a slot.
            SandboxError: the sandbox failed. The program had no effect outside the sandbox.
        """
        ...

    def health(self) -> SandboxHealth:
        """Return the current state of the sandbox."""
        ...

    def close(self) -> None:
        """End all running programs. Pending calls of `run` then raise `SandboxError`."""
        ...
