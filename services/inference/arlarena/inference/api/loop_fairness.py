"""Requests that arrive together take turns, so that the event loop looks at its other sockets in between."""

from __future__ import annotations

import asyncio
import time
from collections import deque

TURN_S = 0.02  # of work on requests before other sockets are looked at
_WOKEN = 8  # requests in a turn that had to wait


class Turns:
    """A thousand requests that are ready at once would hold the event loop for seconds, as it ends what is ready before
    it looks at a socket.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._began: float | None = None  # when the first request of this turn was let through
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Return at once, or in a later turn if this one has lasted long enough."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
            self._loop.call_soon(self._end)
        elif self._waiting or now - self._began > TURN_S:
            place: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(place)
            await place

    def _end(self) -> None:
        """Runs after everything that was ready when the turn began."""
        self._began = None
        for _ in range(min(_WOKEN, len(self._waiting))):
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
        if self._waiting:
            self._began = time.monotonic()
            self._loop.call_soon(self._end)
