"""Combines concurrent calls to the environment server into one `/v1/batch` request.

Each request costs the client about 0.3 ms of CPU time, whatever its size. With 256 concurrent episodes, one request for
each step would dominate the client's CPU time. All results of a request arrive together, so the slowest step delays all
other steps of its batch. Use small batches if the durations of steps differ widely.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Collects items and sends them in batches.

    A batch is sent when it has `size` items, or `window_s` seconds after its first item. With `window_s` 0, the batch
    is sent in the next iteration of the event loop.
    """

    def __init__(
        self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]], *, window_s: float, size: int
    ) -> None:
        """`send`: sends a batch and returns one result for each item, in order. If `send` raises an error, `submit`
        raises the same error for each item of the batch.
        """
        if window_s < 0 or size < 1:
            raise ValueError(f"batch window_s must be 0 or more and batch size 1 or more, not {window_s} and {size}")
        self._send, self._window_s, self._size = send, window_s, size
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._scheduled: asyncio.Handle | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self.requests = 0  # number of batches sent
        self.items = 0  # number of items sent

    async def submit(self, item: Item) -> Result:
        """Send `item` in a batch. Returns the item's result, or raises the error of the batch.

        If the caller cancels this call, the server may execute the item anyway.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if len(self._waiting) >= self._size:
            self._flush()
        elif self._scheduled is None:
            later = loop.call_later(self._window_s, self._flush) if self._window_s else loop.call_soon(self._flush)
            self._scheduled = later
        return await future

    async def close(self) -> None:
        """Send all waiting items, and wait for the results of all batches."""
        self._flush()
        while self._sending:
            await asyncio.wait(set(self._sending))

    def _flush(self) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        batch, self._waiting = self._waiting, []
        if batch:
            task = asyncio.get_running_loop().create_task(self._send_items(batch))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send_items(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        self.requests += 1
        self.items += len(batch)
        try:
            results = await self._send([item for item, _ in batch])
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
