"""Threads for rendering chat templates and tokenising long texts. This work would block the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from arlarena.inference.api.errors import RequestError

T = TypeVar("T")


class TextWorkers:
    """A few threads with a bounded queue. Running work cannot be interrupted, so callers must limit its size."""

    def __init__(self, threads: int, limit_s: float, max_waiting: int) -> None:
        """`limit_s`: time limit of a call of `run` in seconds, including the time in the queue. `max_waiting`: maximum
        number of calls that wait for a thread.
        """
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="text")
        self._limit_s, self._max_pending = limit_s, threads + max_waiting
        self._pending = 0

    async def run(self, work: Callable[[], T], deadline: float) -> T:
        """Run `work` in a thread and return the result. `deadline`: in seconds of `time.monotonic`.

        Raises:
            RequestError: status 503 if the queue is full; status 504 if `work` is not done before the deadline or the
                time limit.
        """
        if self._pending >= self._max_pending:
            raise RequestError(
                f"the queue for tokenising texts is full: it has {self._pending} texts (server setting max_waiting); "
                "retry later",
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
