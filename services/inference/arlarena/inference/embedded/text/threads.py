"""Threads for slow work on texts, such as chat templates and tokenising, which would block the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from arlarena.inference.api.errors import RequestError

T = TypeVar("T")


class TextWorkers:
    """A few threads with a bounded queue. Threads cannot be stopped, so callers limit the size of the work."""

    def __init__(self, threads: int, limit_s: float, max_waiting: int) -> None:
        """`limit_s`: time limit of a task in seconds, including the time in the queue. `max_waiting`: the maximum
        number of waiting tasks.
        """
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="text")
        self._limit_s, self._max_pending = limit_s, threads + max_waiting
        self._pending = 0

    async def run(self, work: Callable[[], T], deadline: float) -> T:
        """Run `work` in a thread and return its result. `deadline`: a time of `time.monotonic`, in seconds.

        Raises:
            RequestError: status 503 if the queue is full; status 504 if the time limit or the deadline has passed.
        """
        if self._pending >= self._max_pending:
            raise RequestError(
                f"{self._pending} texts already wait to be tokenised (server setting max_waiting); retry later",
                status=503,
            )
        self._pending += 1
        try:
            left_s = min(self._limit_s, deadline - time.monotonic())
            return await asyncio.wait_for(asyncio.wrap_future(self._pool.submit(work)), left_s)
        except TimeoutError as error:
            message = "the text was not tokenised in time (server settings text_timeout_s, request_timeout_s)"
            raise RequestError(message, status=504) from error
        finally:
            self._pending -= 1
