"""Spreads a burst of requests over several turns of the event loop. In one turn, the event loop runs all callbacks that
are ready. Between two turns, the event loop polls the sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

TURN_S = 0.02  # in seconds; when a turn has lasted this long, further requests wait for a later turn
_RELEASED_PER_TURN = 8  # maximum number of waiting requests that continue in one turn


class Turns:
    """Spreads requests over several turns. If a thousand requests ran in one turn, the event loop would not poll the
    sockets for seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # the time at which the first request of this turn continued, in seconds of `time.monotonic`
        self._began: float | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait until the calling request may continue. The request waits for a later turn if the current turn has
        lasted longer than `TURN_S`, or if other requests already wait. Otherwise the request continues at once.
        """
        now = time.monotonic()
        if self._began is None:
            self._began = now
            self._loop.call_soon(self._end)
        elif self._waiting or now - self._began > TURN_S:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(waiter)
            await waiter

    def _end(self) -> None:
        """End the current turn, and let some waiting requests continue in the next turn. The event loop calls this
        method after all callbacks of the current turn.
        """
        self._began = None
        for _ in range(min(_RELEASED_PER_TURN, len(self._waiting))):
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
        if self._waiting:
            self._began = time.monotonic()
            self._loop.call_soon(self._end)
