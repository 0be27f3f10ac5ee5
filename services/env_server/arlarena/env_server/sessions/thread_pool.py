"""A pool of threads for long work. If several results are ready at the same time, the event loop is woken only once."""

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
    """`size` threads that run work for one event loop. A thread is lost while it runs work without a waiting caller,
    for example after a timeout.

    `ThreadPoolExecutor` is slower when a batch starts many episodes, because it wakes the event loop for every result.
    The threads are daemons, so the process can exit while some work still runs.
    """

    def __init__(self, size: int, name: str) -> None:
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._ready: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waking = False
        self._running: dict[int, _Job[Any]] = {}  # by thread number
        self._threads = [
            threading.Thread(target=self._run_jobs, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(size)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def size(self) -> int:
        """The number of threads."""
        return len(self._threads)

    @property
    def lost_count(self) -> int:
        """The number of lost threads."""
        return sum(job.future.done() for job in tuple(self._running.values()))

    @property
    def free(self) -> bool:
        """True if at least one thread is not lost. Waiting work then runs when this thread is idle."""
        return self.lost_count < len(self._threads)

    @property
    def waiting(self) -> int:
        """The approximate number of jobs that wait for a thread."""
        return self._jobs.qsize()

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Queue `work` for a thread. Returns a future for its result or exception. If the future is cancelled before a
        thread starts the work, the work does not run.
        """
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(work, future))
        return future

    def close(self) -> None:
        """Tell the threads to finish all queued work and then to end. Returns immediately."""
        for _ in self._threads:
            self._jobs.put(None)

    def _run_jobs(self, number: int) -> None:
        while (job := self._jobs.get()) is not None:
            if job.future.cancelled():
                continue
            self._running[number] = job
            try:
                outcome: tuple[asyncio.Future[Any], Any, BaseException | None] = job.future, job.work(), None
            except BaseException as error:
                outcome = job.future, None, error
            del self._running[number]
            self._ready.append(outcome)
            self._wake()

    def _wake(self) -> None:
        # No result is missed: `_run_jobs` appends the result before this check, and `_deliver` clears `_waking` before
        # it reads the results.
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
