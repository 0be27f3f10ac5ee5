"""Spreads a burst of requests over several turns of the event loop, so that it polls other sockets in between."""

from __future__ import annotations

import asyncio
import time
from collections import deque

TURN_S = 0.02  # seconds of work on requests before other sockets are polled
_RELEASED = 8  # waiting requests that a turn releases


class Turns:
    """Asyncio runs all ready callbacks before it polls sockets, so a thousand ready requests would block them for
    seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._began: float | None = None  # when this turn released its first request
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Return at once, or in a later turn if this turn has lasted `TURN_S`."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
            self._loop.call_soon(self._end)
        elif self._waiting or now - self._began > TURN_S:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(waiter)
            await waiter

    def _end(self) -> None:
        """Called after all callbacks that were ready when the turn began."""
        self._began = None
        for _ in range(min(_RELEASED, len(self._waiting))):
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
        if self._waiting:
            self._began = time.monotonic()
            self._loop.call_soon(self._end)
