"""What is asked of a sandbox, and what it answers: the interface of all kinds of them."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from arlarena.sandbox.limits import ExecutionLimits

Ending = Literal["ok", "error", "timeout", "output", "killed"]


class SandboxError(RuntimeError):
    """The sandbox itself failed: nothing is known of what the program would have done. Trying again may help."""


class SandboxBusy(SandboxError):
    """Too many programs are waiting already; come back in `retry_after_s` seconds."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(
            f"{waiting} programs are waiting for the sandbox already: come back in {retry_after_s:g} s, or raise "
            "max_running or max_waiting"
        )
        self.retry_after_s = retry_after_s


class SandboxUnavailable(SandboxError):
    """This machine cannot protect itself from the programs; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Used:
    """What an execution took: seconds by the clock, seconds of computing, and the most MiB that it held at once,
    libraries included. None where the sandbox does not know.
    """

    wall_s: float
    cpu_s: float | None = None
    memory_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """How a program went.

    Attributes:
        ending: `ok`; `error`, it raised or exited with another code than 0; `timeout`, of either clock; `output`, it
            wrote too much; `killed`, by the signal that `detail` names.
        stdout, stderr: what it wrote, as text, cut at the limit.
        detail: a sentence on an ending other than `ok` and `error`, "" for these.
        used: what it took.
        computed_too_long: whether its limit of computing ended it; where its `timeout` was by the clock, False.
    """

    ending: Ending
    stdout: str
    stderr: str
    detail: str
    used: Used
    computed_too_long: bool = False

    @classmethod
    def of(
        cls, ending: Ending, streams: tuple[bytes, bytes], limits: ExecutionLimits, signal: str, used: Used
    ) -> Execution:
        """What a sandbox has seen, in words. `streams`: standard output and standard error, which are cut at the limit.
        `signal`: what ended it, if anything did.
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
        """The line that says what went wrong: an error's kind and the first line of its message; "" where nothing did,
        or where it said nothing.
        """
        if self.ending == "ok":
            return ""
        lines = self.stderr.strip().splitlines()
        return lines[-1].strip() if self.ending == "error" and lines else self.detail


def signal_name(number: int) -> str:
    """SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True, slots=True)
class SandboxHealth:
    """What protects this machine. `layers`: those in force, as seen from inside; `alive`: whether it can run now;
    `uid`: the user that programs run as; `warning`: why that is root, and how to change it, "" where it is not.
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
    """Runs programs, each in a process of its own. Safe to call from many threads."""

    def run(self, program: str, before: Sequence[str] = (), limits: ExecutionLimits | None = None) -> Execution:
        """Run a program, in an interpreter that has run `before` already: their output is not shown, their errors
        are passed over, and their time counts.

        Raises:
            SandboxBusy: too many are waiting.
            SandboxError: the sandbox failed; the program did nothing that anybody could see.
        """
        ...

    def health(self) -> SandboxHealth:
        """What protects this machine now."""
        ...

    def close(self) -> None:
        """End everything that runs. Whoever waits gets a `SandboxError`."""
        ...
