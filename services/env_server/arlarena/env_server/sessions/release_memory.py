"""Return heap memory to the system after a load spike."""

from __future__ import annotations

import ctypes
import gc

# The smallest drop in the number of sessions after which memory is released. A release takes a few milliseconds.
MIN_DROP = 256


def release() -> None:
    """Collect garbage and return free memory to the system. glibc returns fragmented pages only after a call of
    `malloc_trim`. If the C library does not have this function, only garbage is collected.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class PeakTracker:
    """Detects when the number of sessions has dropped far below its peak."""

    def __init__(self) -> None:
        self._peak = 0

    def has_dropped(self, sessions: int) -> bool:
        """True if the number of sessions has dropped by at least half of its peak and by at least `MIN_DROP`. A result
        of True resets the peak to `sessions`. `sessions`: the current number.
        """
        self._peak = max(self._peak, sessions)
        if self._peak - sessions < max(MIN_DROP, self._peak / 2):
            return False
        self._peak = sessions
        return True
