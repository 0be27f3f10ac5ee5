"""Session slots of one environment, which play attempts and keep going through outages of the environment server.

A slot opens a session, plays one attempt after another, and replaces the session after a failure. An attempt fails
only after a long time without progress, because a failure of the environment says nothing about the model.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from arlarena.client.environments import Session
from arlarena.client.errors import AtCapacity, Refused, ServiceError
from arlarena.proto.backoff import pauses
from arlarena.proto.telemetry import Logger
from arlarena.rollout.evaluation.errors import AttemptFailed, EvaluationError, EvaluationStopped
from arlarena.rollout.evaluation.play.attempt import Attempt
from arlarena.rollout.evaluation.records import AttemptKey, AttemptRecord

# A step that the server refuses in so many sessions is refused because of its reply. Otherwise a session was damaged.
MAX_REFUSALS = 3
# Maximum time for closing a session, in seconds. The server also ends sessions after their idle time.
CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class PlayLimits:
    """How attempts are played.

    Attributes:
        sessions: sessions of each environment. Choose more than the model's concurrency, because a session that waits
            for the environment sends no request.
        session_ttl_s: idle time in seconds after which the server ends a session. A lost session costs a replay.
        give_up_after_s: an attempt ends with `infra_error` after so long without progress. If no attempt of an
            environment had any answer for so long, all of its attempts end.
        first_pause_s, longest_pause_s: pauses after failures of the environment server in seconds; they double.
    """

    sessions: int = 24
    session_ttl_s: float = 600.0
    give_up_after_s: float = 1800.0
    first_pause_s: float = 0.25
    longest_pause_s: float = 5.0


class SessionSource(Protocol):
    """Opens sessions of an environment: `EnvironmentClient`, or an adapter of another kind of server."""

    async def open(self, count: int, *, ttl_s: float | None = None) -> Sequence[Session]:
        """Open sessions. Raises ServiceError."""
        ...


class StopSignal:
    """Whether the evaluation stops, and why."""

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
        """Wait. Raises the reason if the evaluation stops meanwhile."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return
        assert self.reason is not None
        raise self.reason


@dataclass(slots=True)
class Patience:
    """How long failures last without progress. `since`: time of the first failure after the last progress, or None."""

    limit_s: float
    since: float | None = None

    def failed(self) -> None:
        """Note a failure."""
        if self.since is None:
            self.since = time.monotonic()

    def progressed(self) -> None:
        """Note progress."""
        self.since = None

    @property
    def spent(self) -> bool:
        """Whether failures have lasted longer than the limit."""
        return self.since is not None and time.monotonic() - self.since > self.limit_s


class SlotGroup:
    """The slots of one environment, which share its attempts."""

    def __init__(
        self,
        sessions: SessionSource,
        waiting: Sequence[AttemptKey],
        make_attempt: Callable[[AttemptKey, Callable[[], None]], Attempt],
        end: Callable[[AttemptRecord], Awaitable[None]],
        stop: StopSignal,
        limits: PlayLimits,
        log: Logger,
    ) -> None:
        """`make_attempt(key, on_progress)`: returns an attempt. `end`: records the end of an attempt."""
        self._sessions, self._waiting, self._make_attempt, self._end = sessions, deque(waiting), make_attempt, end
        self._stop, self._limits, self._log = stop, limits, log
        self._health = Patience(limits.give_up_after_s)
        self._closing: set[asyncio.Task[None]] = set()

    async def slot(self) -> None:
        """Play attempts until none waits. Errors that end the evaluation set the stop signal."""
        session: Session | None = None
        try:
            while self._waiting and self._stop.reason is None:
                session = session or await self._open_patiently()
                if self._waiting and self._stop.reason is None:
                    session = await self._play(self._waiting.popleft(), session)
        except (EvaluationStopped, EvaluationError) as error:
            self._stop.set(error)
        finally:
            if session is not None:
                self._close(session)
            if self._closing:
                await asyncio.wait(set(self._closing), timeout=CLOSE_S)

    async def _open_patiently(self) -> Session | None:
        """Open a session, and wait for it. Return None if no attempt waits any more, or the environment is given up."""
        waits = self._pauses()
        while self._waiting:
            try:
                return await self._open()
            except Refused as error:
                raise EvaluationError(f"the environment server opens no session: {error}") from error
            except ServiceError as error:
                self._health.failed()
                if self._health.spent:
                    return None
                await self._stop.pause(_wait(next(waits), error))
        return None

    async def _play(self, key: AttemptKey, session: Session | None) -> Session | None:
        """Play an attempt and record its end. Return the session if it can be used again."""
        attempt = self._make_attempt(key, self._health.progressed)
        patience, waits = Patience(self._limits.give_up_after_s), self._pauses()
        turns = refusals = 0
        while True:
            try:
                session = session or await self._open()
                record = await attempt.play(session)
                break
            except AttemptFailed as error:
                record = attempt.failed(error.status, str(error))
                break
            except Refused as error:
                failure: ServiceError = error
                refusals += 1
                if not attempt.in_step:
                    raise EvaluationError(f"the environment server refuses {key}: {error}") from error
                if refusals == MAX_REFUSALS:
                    record = attempt.refused(str(error))
                    break
            except ServiceError as error:
                failure = error
            if len(attempt.played) > turns:
                turns, refusals, patience, waits = len(attempt.played), 0, Patience(patience.limit_s), self._pauses()
            patience.failed()
            self._health.failed()
            if patience.spent or self._health.spent:
                record = attempt.failed("infra_error", str(failure))
                break
            self._give_up(session, attempt, failure)
            session = None
            await self._stop.pause(_wait(next(waits), failure))
        await self._end(record)
        return session

    def _give_up(self, session: Session | None, attempt: Attempt, failure: ServiceError) -> None:
        """Close a session of unknown state, in the background, because a hanging server would delay the next one."""
        if session is not None:
            attempt.restarts += 1
            self._log.warning("attempt_restarts", attempt=str(attempt.key), reason=str(failure))
            self._close(session)

    async def _open(self) -> Session:
        (session,) = await self._sessions.open(1, ttl_s=self._limits.session_ttl_s)
        return session

    def _close(self, session: Session) -> None:
        task = asyncio.ensure_future(session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _pauses(self) -> Iterator[float]:
        return pauses(self._limits.first_pause_s, self._limits.longest_pause_s)


def _wait(pause: float, error: ServiceError) -> float:
    return max(pause, error.retry_after_s) if isinstance(error, AtCapacity) else pause
