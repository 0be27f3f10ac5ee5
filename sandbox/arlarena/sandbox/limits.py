"""Resource limits of an execution."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """Resource limits of an execution.

    Attributes:
        wall_s: seconds of wall-clock time, from the first instruction of the program to its end. The time for which the
            program waits for a CPU counts in containers, but not in forks.
        cpu_s: seconds of CPU time. The sandbox rounds them up to whole seconds.
        memory_mb: MiB of memory. The memory of the libraries counts in containers, but not in forks.
        output_bytes: bytes of standard output and standard error together. A program that writes more is stopped.
    """

    wall_s: float = 10.0
    cpu_s: float = 5.0
    memory_mb: int = 512
    output_bytes: int = 1 << 16

    @property
    def whole_cpu_s(self) -> int:
        """`cpu_s`, rounded up to whole seconds, because the kernel accepts only whole seconds."""
        return max(1, -int(-self.cpu_s // 1))
