"""Resource limits of an execution."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """Resource limits of an execution.

    Attributes:
        wall_s: seconds of wall-clock time, from the program's start to its end. In containers, waiting for a CPU
            counts. In forks, it does not count.
        cpu_s: seconds of CPU time, rounded up to an integer.
        memory_mb: MiB of memory. In containers, the memory of the libraries counts. In forks, it does not count.
        output_bytes: total bytes of standard output and standard error. The sandbox ends a program that writes more.
    """

    wall_s: float = 10.0
    cpu_s: float = 5.0
    memory_mb: int = 512
    output_bytes: int = 1 << 16

    @property
    def whole_cpu_s(self) -> int:
        """`cpu_s`, rounded up to an integer of at least 1, because the kernel accepts only integers."""
        return max(1, -int(-self.cpu_s // 1))
