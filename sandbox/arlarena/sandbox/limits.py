"""Resource limits of an execution."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """Resource limits of an execution.

    Attributes:
        wall_s: seconds from the first instruction to the end. Time spent waiting for a CPU counts only in containers.
        cpu_s: seconds of CPU time, rounded up to whole seconds.
        memory_mb: MiB in addition to the memory of the libraries.
        output_bytes: bytes of standard output and standard error together. A program that writes more is stopped.
    """

    wall_s: float = 10.0
    cpu_s: float = 5.0
    memory_mb: int = 512
    output_bytes: int = 1 << 16

    @property
    def whole_cpu_s(self) -> int:
        """`cpu_s` rounded up to whole seconds, as the kernel needs it."""
        return max(1, -int(-self.cpu_s // 1))
