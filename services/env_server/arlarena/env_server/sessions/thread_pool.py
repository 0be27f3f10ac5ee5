"""Threads for work that may take long, and a cheap way back: results that are ready together wake the loop once."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    work: Callable[[], T]
    future: asyncio.Future[T]


class WorkPool:
    """`size` threads that serve one event loop.

    `ThreadPoolExecutor` wakes the loop for every result: beside a step of 10 us that is dear when a batch begins many
    episodes. The threads are daemons, so that work which never ends does not keep the process from ending.
    """

    def __init__(self, size: int, name: str) -> None:
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._ready: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waking = False
        self._running: dict[int, _Job[Any]] = {}  # by thread
        self._threads = [
            threading.Thread(target=self._serve, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(size)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def size(self) -> int:
        """How many threads there are."""
        return len(self._threads)

    @property
    def lost(self) -> int:
        """Number of threads that still run work whose caller has timed out."""
        return sum(job.future.done() for job in tuple(self._running.values()))

    @property
    def free(self) -> bool:
        """Whether a thread is not lost, so that waiting work will run."""
        return self.lost < len(self._threads)

    @property
    def waiting(self) -> int:
        """About how many wait for a thread."""
        return self._jobs.qsize()

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """The result or exception of `work`. Work whose future is cancelled while it waits does not run."""
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(work, future))
        return future

    def close(self) -> None:
        """Let each thread end after the work that it has begun."""
        for _ in self._threads:
            self._jobs.put(None)

    def _serve(self, number: int) -> None:
        while (job := self._jobs.get()) is not None:
            if job.future.cancelled():
                continue
            self._running[number] = job
            try:
                found: tuple[asyncio.Future[Any], Any, BaseException | None] = job.future, job.work(), None
            except BaseException as error:
                found = job.future, None, error
            del self._running[number]
            self._ready.append(found)
            self._wake()

    def _wake(self) -> None:
        # Reading the flag after the append is enough: `_deliver` lowers it before it looks.
        if not self._waking and self._loop is not None:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the event loop is closed
                self._ready.clear()

    def _deliver(self) -> None:
        self._waking = False
        while self._ready:
            future, result, error = self._ready.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
