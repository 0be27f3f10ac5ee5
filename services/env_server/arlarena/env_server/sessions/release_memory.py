"""Giving memory back to the system after a crowd has left."""

from __future__ import annotations

import ctypes
import gc

# Below this many sessions more than now there is too little to give back to be worth the few milliseconds.
CROWD = 256


def release() -> None:
    """Return what is free to the system. The C library keeps pages with holes in them unless it is told to trim; where
    it cannot (not glibc), nothing more is done than collecting garbage.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class PeakTracker:
    """Notices when most of the sessions that there once were have gone."""

    def __init__(self) -> None:
        self._peak = 0

    def has_dropped(self, sessions: int) -> bool:
        """Whether at least half of the most that were seen, and a crowd, has left since this was last True."""
        self._peak = max(self._peak, sessions)
        if self._peak - sessions < max(CROWD, self._peak / 2):
            return False
        self._peak = sessions
        return True
