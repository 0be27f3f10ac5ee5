"""The people in the shop. Each person has a session with a random cookie. The number of sessions and their idle time
are limited.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from arlarena.environments.webshop.human.visit import Visit


class ShopIsFull(RuntimeError):
    """All sessions are in use."""


class Visitor:
    """The session of one person. Hold `lock` while you read or change the session.

    Attributes:
        name: random text that marks the person's episodes in the record. The name differs from the cookie.
        visit: the current episode.
        number: the number of the episode, from 1.
        index: the index of the task.
        note: a message for the next page that is shown, or "".
        last_form: the last form that was played. If a person sends this form again, nothing is played.
        recorded: whether the finished episode is in the file.
    """

    def __init__(self, index: int) -> None:
        self.lock = Lock()
        self.name = secrets.token_hex(4)
        self.index, self.number = index, 0
        self.note = ""
        self.recorded = False
        self.last_form: tuple[str | None, ...] = ()
        self.visit: Visit
        self.last_seen = 0.0


class Visitors:
    """All sessions by cookie, the longest idle first. Thread-safe."""

    def __init__(self, capacity: int, idle_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity, self._idle_s, self._clock = capacity, idle_s, clock
        self._visitors: OrderedDict[str, Visitor] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        """Return the number of sessions."""
        with self._lock:
            self._drop_idle()
            return len(self._visitors)

    def find(self, cookie: str | None) -> Visitor | None:
        """Return the session of a cookie, and restart its idle time. Return None if the cookie has no session."""
        with self._lock:
            self._drop_idle()
            visitor = self._visitors.get(cookie or "")
            if visitor is not None and cookie is not None:
                visitor.last_seen = self._clock()
                self._visitors.move_to_end(cookie)
            return visitor

    def add(self, visitor: Visitor) -> str:
        """Open a session. Returns its cookie.

        Raises:
            ShopIsFull: all sessions are in use.
        """
        with self._lock:
            self._drop_idle()
            if len(self._visitors) >= self._capacity:
                raise ShopIsFull(f"all {self._capacity} sessions of this shop are in use; try again later")
            cookie = secrets.token_urlsafe(32)
            visitor.last_seen = self._clock()
            self._visitors[cookie] = visitor
            return cookie

    def _drop_idle(self) -> None:
        oldest = self._clock() - self._idle_s
        while self._visitors:
            cookie, visitor = next(iter(self._visitors.items()))
            if visitor.last_seen > oldest:
                return
            del self._visitors[cookie]
