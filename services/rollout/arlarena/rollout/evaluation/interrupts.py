"""SIGINT (Ctrl-C) and SIGTERM during an evaluation."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import TracebackType

from arlarena.rollout.evaluation.errors import EvaluationStopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
