"""Limits the number of programs that run at the same time, and the number of programs that wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from arlarena.sandbox.execution import SandboxBusy


class SlotLimiter:
    """Gives each running program a slot. There are `max_running` slots, and at most `max_waiting` programs wait.

    `retry_after_s`: the value for `SandboxBusy.retry_after_s`. The attributes `running` and `waiting` are the current
    numbers of programs. Thread-safe.
    """

    def __init__(self, max_running: int, max_waiting: int, retry_after_s: float) -> None:
        self._max_running, self._max_waiting, self._retry_after_s = max_running, max_waiting, retry_after_s
        self._free = threading.Condition()
        self.running = self.waiting = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Occupy a slot until the `with` block ends. If no slot is free, wait for a slot.

        Raises:
            SandboxBusy: no slot is free, and `max_waiting` programs are already waiting.
        """
        with self._free:
            if self.running >= self._max_running:
                if self.waiting >= self._max_waiting:
                    raise SandboxBusy(self.waiting, self._retry_after_s)
                self.waiting += 1
                try:
                    self._free.wait_for(lambda: self.running < self._max_running)
                finally:
                    self.waiting -= 1
            self.running += 1
        try:
            yield
        finally:
            with self._free:
                self.running -= 1
                self._free.notify()
