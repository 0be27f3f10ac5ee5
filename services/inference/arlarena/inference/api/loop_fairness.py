"""Spreads a burst of requests over several turns of the event loop. In a turn, the loop runs all ready callbacks. The
loop polls the sockets between two turns.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

TURN_S = 0.02  # maximum seconds of work on requests before the loop polls the sockets again
_RELEASED_PER_TURN = 8  # how many waiting requests continue in one turn


class Turns:
    """Spreads requests over turns of the event loop. In a single turn, a thousand ready requests would block other
    sockets for seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # when the first request of this turn continued, in seconds of `time.monotonic`
        self._began: float | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Let the calling request continue, now or in a later turn. The request must wait for a later turn if this turn
        has lasted longer than `TURN_S`, or if other requests already wait.
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
        """End the turn, and let some waiting requests continue in the next turn. The event loop calls this function
        after all callbacks that were ready when the turn began.
        """
        self._began = None
        for _ in range(min(_RELEASED_PER_TURN, len(self._waiting))):
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
        if self._waiting:
            self._began = time.monotonic()
            self._loop.call_soon(self._end)
