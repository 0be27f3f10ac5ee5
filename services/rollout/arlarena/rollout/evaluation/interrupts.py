"""Ends an evaluation early, after a stop request in this process or a signal (SIGINT from Ctrl-C, or SIGTERM)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from arlarena.rollout.evaluation.errors import EvaluationError, EvaluationStopped

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """A request to stop the evaluation, with the reason."""

    def __init__(self) -> None:
        self.reason: EvaluationStopped | EvaluationError | None = None
        self._event = asyncio.Event()

    def set(self, reason: EvaluationStopped | EvaluationError) -> None:
        """Request the stop. An `EvaluationError` replaces an earlier `EvaluationStopped`."""
        if self.reason is None or (
            isinstance(reason, EvaluationError) and not isinstance(self.reason, EvaluationError)
        ):
            self.reason = reason
        self._event.set()

    async def pause(self, seconds: float) -> None:
        """Wait for `seconds`. If the evaluation stops first, raise the reason."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return
        assert self.reason is not None
        raise self.reason

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`. If the evaluation stops first, cancel `work` and raise the reason."""
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            assert self.reason is not None
            raise self.reason
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)


class Interrupts:
    """A context that ends the evaluation and stops the started services when the process receives a signal.

    If attempts are being played, the first signal calls `stop`, and replies to requests in flight are still recorded.
    Otherwise, or at the second signal, the task that entered the context is cancelled.

    Attributes:
        received: the first signal, or None.
        stop: a function that ends the running attempts; None if no attempts are being played.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.stop: Callable[[EvaluationStopped], None] | None = None

    @property
    def exit_status(self) -> int | None:
        """128 + the number of the first signal, or None if no signal was received."""
        return None if self.received is None else 128 + self.received

    def __enter__(self) -> Interrupts:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in SIGNALS:
            loop.add_signal_handler(number, self._arrived, number, task)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def _arrived(self, number: signal.Signals, task: asyncio.Task[object]) -> None:
        first, self.received = self.received is None, self.received or number
        if first and self.stop is not None:
            self.stop(EvaluationStopped(f"{number.name} was received"))
        else:
            task.cancel()
