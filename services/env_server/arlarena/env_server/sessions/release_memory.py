"""Return heap memory to the system after a load spike."""

from __future__ import annotations

import ctypes
import gc

# The smallest drop in the number of sessions after which memory is released. A release takes a few milliseconds.
CROWD = 256


def release() -> None:
    """Collect garbage and return free memory to the system. glibc returns fragmented pages only after a call of
    `malloc_trim`. Other C libraries do not have this function.
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
        """True if the number of sessions has dropped by at least half of the peak and by at least `CROWD`. The peak is
        the largest number since the last True. `sessions`: the present number. True sets the peak to this number.
        """
        self._peak = max(self._peak, sessions)
        if self._peak - sessions < max(CROWD, self._peak / 2):
            return False
        self._peak = sessions
        return True
