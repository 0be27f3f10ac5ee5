"""Connects the event loop with the engine's thread. A request submits its sequences and waits for the results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from arlarena.inference.api.errors import ClientGone, RequestError
from arlarena.inference.embedded.engine import Engine, EngineDeadError
from arlarena.inference.embedded.sequence import Sequence
from arlarena.proto.policy import TIMEOUT_HEADER

Receive = Callable[[], Awaitable[Any]]


class Waiter:
    """A request that waits for its sequences."""

    __slots__ = ("unfinished", "updated")

    def __init__(self, count: int, updated: asyncio.Future[None]) -> None:
        self.unfinished = count  # the number of unfinished sequences
        self.updated = updated  # done when a streamed sequence has new tokens, or when all sequences have finished


class Bridge:
    """Submits sequences to the engine and waits for the results. If a client disconnects, the bridge cancels the
    client's sequences. `max_waiting`: maximum number of sequences that wait for a slot.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_waiting: int) -> None:
        self.loop = loop
        self._max_waiting = max_waiting
        self._engine: Engine | None = None
        self._undelivered = 0  # the number of submitted sequences whose end has not been delivered

    def attach(self, engine: Engine) -> None:
        """Set the engine. The engine must call `self.deliver` when sequences have finished or have new tokens."""
        self._engine = engine

    def deliver(self, updated: list[Sequence]) -> None:
        """Pass the updated sequences of one engine step to the event loop, in one callback. The engine's thread calls
        this method.
        """
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._delivered, updated)

    async def complete(self, sequences: list[Sequence], receive: Receive) -> None:
        """Submit `sequences` and wait until all have finished.

        Raises:
            ClientGone: the client disconnected before all sequences had finished.
            RequestError: status 503 if the queue is full or the engine has stopped; status 504 if the deadline has
                passed; status 500 if logits were not finite or the engine failed.
        """
        waiter = self._submit(sequences)
        disconnected = asyncio.ensure_future(receive())
        try:
            await _updated_or_disconnected(waiter, disconnected)
        finally:
            disconnected.cancel()
            self._cancel_unfinished(sequences)
        raise_for_failure(sequences)

    async def submit_and_stream(self, sequences: list[Sequence], receive: Receive) -> AsyncIterator[None]:
        """Submit `sequences`. Their field `stream` must be True. Yields None each time sequences have new tokens or
        have finished. Ends when all sequences have finished.

        Raises:
            ClientGone, RequestError: for the same reasons as `complete`.
        """
        waiter = self._submit(sequences)
        disconnected = asyncio.ensure_future(receive())
        try:
            while True:
                await _updated_or_disconnected(waiter, disconnected)
                waiter.updated = self.loop.create_future()
                finished = waiter.unfinished == 0
                raise_for_failure(sequences)
                yield
                if finished:
                    return
        finally:
            disconnected.cancel()
            self._cancel_unfinished(sequences)

    def check_room(self, count: int) -> None:
        """Check that the queue has room for `count` more sequences.

        Raises:
            RequestError: status 503 if the queue has too little room.
        """
        assert self._engine is not None
        if self._undelivered + count > self._max_waiting + self._engine.slots:
            waiting = self._undelivered - self._engine.running
            raise RequestError(
                f"the queue is full: {waiting} sequences wait (server setting max_waiting = {self._max_waiting})",
                status=503,
            )

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
        self._undelivered += len(sequences)
        return waiter

    def _delivered(self, updated: list[Sequence]) -> None:
        for sequence in updated:
            waiter: Waiter = sequence.owner
            if sequence.finish_reason is not None and not sequence.delivered:
                sequence.delivered = True
                waiter.unfinished -= 1
                self._undelivered -= 1
            if (sequence.stream or waiter.unfinished == 0) and not waiter.updated.done():
                waiter.updated.set_result(None)

    def _cancel_unfinished(self, sequences: list[Sequence]) -> None:
        assert self._engine is not None
        for sequence in sequences:
            if sequence.finish_reason is None:
                self._engine.cancel(sequence)


async def _updated_or_disconnected(waiter: Waiter, disconnected: asyncio.Future[Any]) -> None:
    """Wait until a streamed sequence has new tokens, or all sequences of the request have finished.

    Raises:
        ClientGone: the client disconnected first.
    """
    await asyncio.wait((waiter.updated, disconnected), return_when=asyncio.FIRST_COMPLETED)
    if not waiter.updated.done():
        raise ClientGone


def raise_for_failure(sequences: list[Sequence]) -> None:
    """Raise an error if any sequence has failed.

    Raises:
        RequestError: status 504 if the deadline has passed; status 500 if logits were not finite or the engine failed.
    """
    for sequence in sequences:
        if sequence.finish_reason == "deadline":
            raise RequestError(
                f"the request ran out of time after {len(sequence.tokens)} tokens (header {TIMEOUT_HEADER}, server "
                "setting request_timeout_s)",
                status=504,
            )
        if sequence.finish_reason == "nonfinite":
            raise RequestError("the weights in service gave logits that are not finite", status=500)
        if sequence.finish_reason == "error":
            raise RequestError("the engine failed while it worked on this request; see the server's log", status=500)
