"""The interface of all sandboxes: requests, results and errors."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from arlarena.sandbox.limits import ExecutionLimits

Ending = Literal["ok", "error", "timeout", "output", "killed"]


class SandboxError(RuntimeError):
    """The sandbox failed, so the result of the program is unknown. A retry may help."""


class SandboxBusy(SandboxError):
    """Too many programs are waiting; retry after `retry_after_s` seconds."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(
            f"{waiting} programs are already waiting for the sandbox: retry in {retry_after_s:g} s, or raise "
            "max_running or max_waiting"
        )
        self.retry_after_s = retry_after_s


class SandboxUnavailable(SandboxError):
    """This machine cannot provide the required protection. The message names the missing protection."""


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """The resources that an execution used: wall-clock seconds, CPU seconds, and peak memory in MiB.

    The memory includes that of the libraries. A value is None if the sandbox cannot measure it.
    """

    wall_s: float
    cpu_s: float | None = None
    memory_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """The result of a program.

    Attributes:
        ending: how the program ended. `ok`: with exit code 0; `error`: with an exception or another exit code;
            `timeout`: the limit of wall-clock or CPU time was reached; `output`: the program wrote too much;
            `killed`: a signal ended the program.
        stdout, stderr: the program's output as text, truncated at the limit.
        detail: for `timeout`, `output` and `killed`, a sentence that describes the ending; else "".
        used: the resources that the program used.
        hit_cpu_limit: whether the limit of CPU time was reached.
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
        """Build a result. `streams`: standard output and standard error, which are truncated at the limit. `signal`:
        name of the signal that ended the program, if any.
        """
        details: dict[Ending, str] = {
            "timeout": f"TimeoutError: it took more than {limits.wall_s:g} s, or {limits.cpu_s:g} s of computing",
            "output": f"OutputError: it wrote more than {limits.output_bytes} bytes",
            "killed": f"ProcessError: it was ended by {signal}",
        }
        out = streams[0][: limits.output_bytes]
        err = streams[1][: limits.output_bytes - len(out)]
        return cls(
            ending, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), details.get(ending, ""), used
        )

    @property
    def error_line(self) -> str:
        """The error's type and the first line of its message. For other endings, `detail`; "" for `ok`."""
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
    """State of a sandbox.

    Attributes:
        layers: the protection layers that were found effective by a test inside the sandbox.
        alive: whether the sandbox can run programs now.
        uid: the user that programs run as.
        warning: if programs run as root, the reason and how to change this; else "".
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
    """Runs programs, each in its own process. Thread-safe."""

    def run(self, program: str, before: Sequence[str] = (), limits: ExecutionLimits | None = None) -> Execution:
        """Run a program in a new interpreter, after the programs in `before`.

        Output and errors of the programs in `before` are dropped. Their time counts towards the limits.

        Raises:
            SandboxBusy: too many programs are waiting.
            SandboxError: the sandbox failed; the program had no visible effect.
        """
        ...

    def health(self) -> SandboxHealth:
        """Return the current state of the sandbox."""
        ...

    def close(self) -> None:
        """End all running programs. Each caller that waits for a program gets a `SandboxError`."""
        ...
