"""Between the event loop and the engine's thread: requests wait here for their sequences."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from arlarena.inference.api.errors import ClientGone, RequestError
from arlarena.inference.embedded.engine import Engine, EngineDeadError
from arlarena.inference.embedded.sequence import Sequence

Receive = Callable[[], Awaitable[Any]]


class Waiter:
    """Who waits for the sequences of one request."""

    __slots__ = ("left", "news")

    def __init__(self, count: int, news: asyncio.Future[None]) -> None:
        self.left = count  # sequences that have not finished
        self.news = news  # done as soon as there is something to look at


class Bridge:
    """Submits sequences and waits for them; a client that leaves frees its slots."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_waiting: int) -> None:
        self.loop = loop
        self._max_waiting = max_waiting
        self._engine: Engine | None = None
        self._open = 0  # sequences submitted and not yet delivered

    def attach(self, engine: Engine) -> None:
        """Use this engine; it must have been given `self.deliver`."""
        self._engine = engine

    def deliver(self, news: list[Sequence]) -> None:
        """Called on the engine's thread: one hop to the event loop for all news of a step."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._delivered, news)

    async def complete(self, sequences: list[Sequence], receive: Receive) -> None:
        """Sample `sequences` to their end.

        Raises:
            ClientGone: the client left first.
            RequestError: 503 the queue is full or the engine is gone, 504 out of time.
        """
        waiter = self._submit(sequences)
        gone = asyncio.ensure_future(receive())
        try:
            await _news_or_gone(waiter, gone)
        finally:
            gone.cancel()
            self._cancel_unfinished(sequences)
        check_finished(sequences)

    async def grow(self, sequences: list[Sequence], receive: Receive) -> AsyncIterator[None]:
        """Submit sequences and return control whenever some of them grew or finished, until all have finished.

        Raises:
            ClientGone, RequestError: see `complete`.
        """
        waiter = self._submit(sequences)
        gone = asyncio.ensure_future(receive())
        try:
            while True:
                await _news_or_gone(waiter, gone)
                waiter.news = self.loop.create_future()
                finished = waiter.left == 0
                check_finished(sequences)
                yield
                if finished:
                    return
        finally:
            gone.cancel()
            self._cancel_unfinished(sequences)

    def check_room(self, count: int) -> None:
        """Refuse more sequences than may wait or run.

        Raises:
            RequestError: 503.
        """
        assert self._engine is not None
        if self._open + count > self._max_waiting + self._engine.slots:
            waiting = self._open - self._engine.running
            raise RequestError(f"{waiting} sequences wait already (max_waiting = {self._max_waiting})", status=503)

    def _submit(self, sequences: list[Sequence]) -> Waiter:
        engine = self._engine
        assert engine is not None
        self.check_room(len(sequences))
        waiter = Waiter(len(sequences), self.loop.create_future())
        for sequence in sequences:
            sequence.owner = waiter
        try:
            engine.submit(sequences)
        except EngineDeadError as error:
            raise RequestError(str(error), status=503) from error
        self._open += len(sequences)
        return waiter

    def _delivered(self, news: list[Sequence]) -> None:
        for sequence in news:
            waiter: Waiter = sequence.owner
            if sequence.finish_reason is not None and not sequence.delivered:
                sequence.delivered = True
                waiter.left -= 1
                self._open -= 1
            if (sequence.stream or waiter.left == 0) and not waiter.news.done():
                waiter.news.set_result(None)

    def _cancel_unfinished(self, sequences: list[Sequence]) -> None:
        assert self._engine is not None
        for sequence in sequences:
            if sequence.finish_reason is None:
                self._engine.cancel(sequence)


async def _news_or_gone(waiter: Waiter, gone: asyncio.Future[Any]) -> None:
    """Wait for news of the sequences; raise `ClientGone` if the client leaves first."""
    await asyncio.wait((waiter.news, gone), return_when=asyncio.FIRST_COMPLETED)
    if not waiter.news.done():
        raise ClientGone


def check_finished(sequences: list[Sequence]) -> None:
    """Turn the endings that are not answers into errors.

    Raises:
        RequestError: 504 for a deadline, 500 for an engine that died.
    """
    for sequence in sequences:
        if sequence.finish_reason == "deadline":
            raise RequestError(
                f"the request ran out of time after {len(sequence.tokens)} tokens (request_timeout_s)", status=504
            )
        if sequence.finish_reason == "nonfinite":
            raise RequestError("the weights in service compute logits that are not finite", status=500)
        if sequence.finish_reason == "error":
            raise RequestError("the engine failed while it worked on this request; see the server's log", status=500)
