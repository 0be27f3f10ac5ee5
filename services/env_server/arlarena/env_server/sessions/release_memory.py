"""Return heap memory to the system after a load spike."""

from __future__ import annotations

import ctypes
import gc

# Least drop in sessions that is worth the few milliseconds of a trim.
CROWD = 256


def release() -> None:
    """Collect garbage and return free memory to the system. glibc keeps fragmented pages unless `malloc_trim` is
    called; other C libraries have no such call.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class PeakTracker:
    """Detects a drop from the peak number of sessions."""

    def __init__(self) -> None:
        self._peak = 0

    def has_dropped(self, sessions: int) -> bool:
        """Whether at least half of the peak, and many sessions, have ended since this was last True."""
        self._peak = max(self._peak, sessions)
        if self._peak - sessions < max(CROWD, self._peak / 2):
            return False
        self._peak = sessions
        return True
