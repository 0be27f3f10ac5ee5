"""Threads for what takes long with texts: chat templates, tokenising, long answers. The event loop stays free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from arlarena.inference.api.errors import RequestError

T = TypeVar("T")


class TextWorkers:
    """A few threads with a bounded queue. A thread cannot be stopped: whoever gives it work bounds that by size."""

    def __init__(self, threads: int, limit_s: float, most_waiting: int) -> None:
        """`limit_s`: of one piece of work, its time in the queue included. `most_waiting`: pieces in the queue."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="text")
        self._limit_s, self._most = limit_s, threads + most_waiting
        self._pending = 0

    async def run(self, work: Callable[[], T], deadline: float) -> T:
        """The result of `work`; `deadline` is in seconds of `time.monotonic`.

        Raises:
            RequestError: 503 the queue is full, 504 out of time.
        """
        if self._pending >= self._most:
            raise RequestError(f"{self._pending} texts wait to be tokenised already (max_waiting)", status=503)
        self._pending += 1
        try:
            left_s = min(self._limit_s, deadline - time.monotonic())
            return await asyncio.wait_for(asyncio.wrap_future(self._pool.submit(work)), left_s)
        except TimeoutError as error:
            message = "the text was not tokenised in time (text_timeout_s, request_timeout_s)"
            raise RequestError(message, status=504) from error
        finally:
            self._pending -= 1
