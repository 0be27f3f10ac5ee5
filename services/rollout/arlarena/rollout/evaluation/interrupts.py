"""The end of an evaluation before its last attempt: the stop signal, and SIGINT (Ctrl-C) and SIGTERM."""

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
    """The request to stop the evaluation, with its reason."""

    def __init__(self) -> None:
        self.reason: EvaluationStopped | EvaluationError | None = None
        self._event = asyncio.Event()

    def set(self, reason: EvaluationStopped | EvaluationError) -> None:
        """Stop. An error replaces an earlier reason that is no error."""
        if self.reason is None or (
            isinstance(reason, EvaluationError) and not isinstance(self.reason, EvaluationError)
        ):
            self.reason = reason
        self._event.set()

    async def pause(self, seconds: float) -> None:
        """Wait. If the evaluation stops meanwhile, raises the reason."""
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
    """Ends the evaluation at a signal, so that the services that it started are stopped.

    While attempts are played (`stop` is set), the first signal ends the evaluation after the requests in flight, which
    are recorded. Any other signal cancels the task that entered the context.

    Attributes:
        received: the first signal, or None.
        stop: ends the attempts that are being played.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.stop: Callable[[EvaluationStopped], None] | None = None

    @property
    def exit_status(self) -> int | None:
        """128 + the number of the signal; None without a signal."""
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
