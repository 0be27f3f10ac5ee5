"""Many small calls, few requests: calls to the environment server that are made at about the same time share one
`/v1/batch`.

A request costs a client about a third of a millisecond however small it is; with 256 episodes in flight that is most
of the work. The results of one request come back together, so an environment whose steps differ greatly in time
should use small batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Collects items for `window_s` seconds (0: one tick of the event loop), then sends at most `size` of them at a
    time.
    """

    def __init__(
        self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]], *, window_s: float, size: int
    ) -> None:
        """`send` returns one result per item, in order; what it raises goes to every caller of that batch."""
        if window_s < 0 or size < 1:
            raise ValueError(
                f"a batch needs a window of at least 0 s and a size of at least 1, not {window_s} and {size}"
            )
        self._send, self._window_s, self._size = send, window_s, size
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._scheduled: asyncio.Handle | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self.requests = 0
        self.items = 0

    async def submit(self, item: Item) -> Result:
        """The result for `item`. A caller that is cancelled gives up its result; the item may be carried out all the
        same.
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
        """Send what waits and wait for what is on its way."""
        self._flush()
        while self._sending:
            await asyncio.wait(set(self._sending))

    def _flush(self) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        batch, self._waiting = self._waiting, []
        if batch:
            task = asyncio.get_running_loop().create_task(self._carry_out(batch))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _carry_out(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
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
