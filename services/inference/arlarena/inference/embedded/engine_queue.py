"""Connects the event loop with the engine's thread. Requests submit sequences and wait for the results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from arlarena.inference.api.errors import ClientGone, RequestError
from arlarena.inference.embedded.engine import Engine, EngineDeadError
from arlarena.inference.embedded.sequence import Sequence

Receive = Callable[[], Awaitable[Any]]


class Waiter:
    """A request that waits for its sequences."""

    __slots__ = ("unfinished", "updated")

    def __init__(self, count: int, updated: asyncio.Future[None]) -> None:
        self.unfinished = count  # the number of unfinished sequences
        self.updated = updated  # done as soon as a sequence has finished or grown


class Bridge:
    """Submits sequences to the engine and waits for their results. If a client disconnects, its sequences end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_waiting: int) -> None:
        self.loop = loop
        self._max_waiting = max_waiting
        self._engine: Engine | None = None
        self._open = 0  # sequences submitted and not yet delivered

    def attach(self, engine: Engine) -> None:
        """Use this engine. The engine must call `self.deliver`."""
        self._engine = engine

    def deliver(self, updated: list[Sequence]) -> None:
        """Pass all updates of a step to the event loop, with one callback. Called on the engine's thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._delivered, updated)

    async def complete(self, sequences: list[Sequence], receive: Receive) -> None:
        """Submit `sequences` and wait until all have finished.

        Raises:
            ClientGone: the client disconnected first.
            RequestError: 503 the queue is full or the engine has stopped, 504 the deadline has passed.
        """
        waiter = self._submit(sequences)
        disconnected = asyncio.ensure_future(receive())
        try:
            await _updated_or_disconnected(waiter, disconnected)
        finally:
            disconnected.cancel()
            self._cancel_unfinished(sequences)
        check_finished(sequences)

    async def grow(self, sequences: list[Sequence], receive: Receive) -> AsyncIterator[None]:
        """Submit `sequences`. Yields after each update, in which some sequences grew or finished, until all have
        finished.

        Raises:
            ClientGone, RequestError: see `complete`.
        """
        waiter = self._submit(sequences)
        disconnected = asyncio.ensure_future(receive())
        try:
            while True:
                await _updated_or_disconnected(waiter, disconnected)
                waiter.updated = self.loop.create_future()
                finished = waiter.unfinished == 0
                check_finished(sequences)
                yield
                if finished:
                    return
        finally:
            disconnected.cancel()
            self._cancel_unfinished(sequences)

    def check_room(self, count: int) -> None:
        """Refuse `count` more sequences if the queue is full.

        Raises:
            RequestError: 503, the queue is full.
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

    def _delivered(self, updated: list[Sequence]) -> None:
        for sequence in updated:
            waiter: Waiter = sequence.owner
            if sequence.finish_reason is not None and not sequence.delivered:
                sequence.delivered = True
                waiter.unfinished -= 1
                self._open -= 1
            if (sequence.stream or waiter.unfinished == 0) and not waiter.updated.done():
                waiter.updated.set_result(None)

    def _cancel_unfinished(self, sequences: list[Sequence]) -> None:
        assert self._engine is not None
        for sequence in sequences:
            if sequence.finish_reason is None:
                self._engine.cancel(sequence)


async def _updated_or_disconnected(waiter: Waiter, disconnected: asyncio.Future[Any]) -> None:
    """Wait for an update of the sequences.

    Raises:
        ClientGone: the client disconnected first.
    """
    await asyncio.wait((waiter.updated, disconnected), return_when=asyncio.FIRST_COMPLETED)
    if not waiter.updated.done():
        raise ClientGone


def check_finished(sequences: list[Sequence]) -> None:
    """Raise an error if a sequence ended without a response.

    Raises:
        RequestError: 504 for a deadline, 500 for logits that are not finite and for a failed engine.
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
