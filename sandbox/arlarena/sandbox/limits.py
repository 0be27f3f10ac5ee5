"""What one execution in a sandbox may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """What one execution may use.

    Attributes:
        wall_s: seconds from its first instruction to its end, without those in which it waited for a processor that
            others used (forks; containers count these).
        cpu_s: seconds of processor time, rounded up to whole ones.
        memory_mb: MiB beyond what the libraries take.
        output_bytes: bytes written to standard output and standard error together; one more ends it.
    """

    wall_s: float = 10.0
    cpu_s: float = 5.0
    memory_mb: int = 512
    output_bytes: int = 1 << 16

    @property
    def whole_cpu_s(self) -> int:
        """`cpu_s` as the kernel counts it, in whole seconds."""
        return max(1, -int(-self.cpu_s // 1))
