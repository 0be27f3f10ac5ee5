"""Resource limits of an execution."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """Resource limits of an execution.

    Attributes:
        wall_s: maximum wall-clock time in seconds, from the program's start to its end. In containers, the time of
            waiting for a CPU counts. In forks, it does not count.
        cpu_s: maximum CPU time in seconds. The sandbox rounds this value up to an integer.
        memory_mb: maximum memory in MiB. In containers, the libraries' memory counts. In forks, it does not count.
        output_bytes: maximum number of bytes of standard output and standard error together. If a program writes more,
            the sandbox ends it.
    """

    wall_s: float = 10.0
    cpu_s: float = 5.0
    memory_mb: int = 512
    output_bytes: int = 1 << 16

    @property
    def whole_cpu_s(self) -> int:
        """`cpu_s`, rounded up to an integer of at least 1, because the kernel accepts only integers."""
        return max(1, -int(-self.cpu_s // 1))
