"""Session slots of one environment. They play attempts, and retry during outages of the environment server.

A slot opens a session, plays one attempt after another, and replaces the session after a failure. During an outage, an
attempt fails only after a long time without progress, because the outage says nothing about the model.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from arlarena.client.environments import Session
from arlarena.client.errors import AtCapacity, ProtocolError, Refused, ServiceError
from arlarena.proto.backoff import pauses
from arlarena.proto.telemetry import Logger
from arlarena.rollout.evaluation.errors import AttemptFailed, EvaluationError, EvaluationStopped
from arlarena.rollout.evaluation.interrupts import StopSignal
from arlarena.rollout.evaluation.play.attempt import Attempt
from arlarena.rollout.evaluation.records import AttemptKey, AttemptRecord

# If the server refuses the same step in this number of sessions, the model's reply counts as the cause. After fewer
# refusals, the cause may be a damaged session.
MAX_REFUSALS = 3
# After this number of invalid responses in a row, an attempt ends: the server does not follow the API, and more retries
# would not help. The number is above 1, because a proxy may send its own page while the server restarts. The pauses
# between five responses are about 4 s in total.
MAX_PROTOCOL_ERRORS = 5
# An attempt ends after this number of seconds without progress. The time is long enough for a server that restarts and
# loads its data, and for a short outage at night. After a longer outage, a resume plays the attempt again.
GIVE_UP_AFTER_S = 1800.0
# The server ends a session after this idle time in seconds. The time is longer than the pauses of a model's rate limit,
# and longer than most replies with reasoning take. If a session ends too early, the attempt is replayed without new
# requests.
SESSION_TTL_S = 600.0
# Maximum time for closing a session, in seconds. The server also ends idle sessions.
CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class PlayLimits:
    """How attempts are played.

    Attributes:
        sessions: number of sessions per environment. Choose a number above the model's concurrency, because a session
            sends no request while it waits for the environment.
        session_ttl_s: idle time in seconds after which the server ends a session.
        give_up_after_s: an attempt ends with `infra_error` after this number of seconds without progress. If the
            environment server fails for this time without an answer to any attempt, all attempts of the environment
            end.
        first_pause_s: pause after the first failure of the environment server, in seconds. Each further pause is twice
            as long.
        longest_pause_s: maximum pause after a failure, in seconds.
        one_by_one: play only one attempt at a time, also across environments, because a person plays.
    """

    sessions: int = 24
    session_ttl_s: float = SESSION_TTL_S
    give_up_after_s: float = GIVE_UP_AFTER_S
    first_pause_s: float = 0.25
    longest_pause_s: float = 5.0
    one_by_one: bool = False


class SessionSource(Protocol):
    """Opens sessions of an environment. `EnvironmentClient` and `OpenEnvClient` have this interface."""

    async def open(self, count: int, *, ttl_s: float | None = None) -> Sequence[Session]:
        """Open `count` sessions. `ttl_s`: idle time in seconds, or None for the server's default.

        Raises:
            ServiceError: the sessions cannot be opened.
        """
        ...


@dataclass(slots=True)
class Patience:
    """Measures how long failures have lasted without progress.

    Attributes:
        limit_s: maximum duration of the failures in seconds.
        since: monotonic time of the first failure after the last progress, or None.
    """

    limit_s: float
    since: float | None = None

    def failed(self) -> None:
        """Record a failure."""
        if self.since is None:
            self.since = time.monotonic()

    def progressed(self) -> None:
        """Record progress."""
        self.since = None

    @property
    def spent(self) -> bool:
        """Whether failures have lasted longer than the limit."""
        return self.since is not None and time.monotonic() - self.since > self.limit_s


@dataclass(slots=True)
class AttemptFailures:
    """The failures of one attempt since its last progress. An attempt makes progress when it gets a new response.

    Attributes:
        patience: measures how long the failures last.
        turns: number of responses at the last progress.
        refusals: number of `Refused` errors in a row.
        invalid: number of invalid responses (`ProtocolError`) in a row.
    """

    patience: Patience
    turns: int = 0
    refusals: int = 0
    invalid: int = 0

    def add(self, error: ServiceError, turns: int) -> bool:
        """Count a failure. Return whether the attempt made progress since the previous failure.

        `turns`: number of the attempt's responses so far.
        """
        progressed = turns > self.turns
        if progressed:
            self.turns, self.refusals, self.invalid = turns, 0, 0
            self.patience.progressed()
        self.patience.failed()
        self.refusals = self.refusals + 1 if isinstance(error, Refused) else 0
        self.invalid = self.invalid + 1 if isinstance(error, ProtocolError) else 0
        return progressed


class SlotGroup:
    """The slots of one environment. They share a queue of attempts."""

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
        """`make_attempt(key, on_progress)` returns an attempt. `end(record)` records the end of an attempt."""
        self._sessions, self._waiting, self._make_attempt, self._end = sessions, deque(waiting), make_attempt, end
        self._stop, self._limits, self._log = stop, limits, log
        self._health = Patience(limits.give_up_after_s)
        self._closing: set[asyncio.Task[None]] = set()

    async def slot(self) -> None:
        """Play attempts until the queue is empty. If an error ends the evaluation, set the stop signal."""
        session: Session | None = None
        try:
            while self._waiting and self._stop.reason is None:
                session = session or await self._open_with_retries()
                if self._waiting and self._stop.reason is None:
                    session = await self._play(self._waiting.popleft(), session)
        except (EvaluationStopped, EvaluationError) as error:
            self._stop.set(error)
        finally:
            if session is not None:
                self._close(session)
            if self._closing:
                await asyncio.wait(set(self._closing), timeout=CLOSE_S)

    async def _open_with_retries(self) -> Session | None:
        """Open a session, with retries.

        Returns None if the queue of attempts is empty, or if failures have lasted longer than `give_up_after_s`.

        Raises:
            EvaluationError: the server refuses the request, or does not follow the API.
            EvaluationStopped, EvaluationError: the evaluation stops during a pause.
        """
        waits, invalid = self._pauses(), 0
        while self._waiting:
            try:
                return await self._open()
            except ServiceError as error:
                invalid = invalid + 1 if isinstance(error, ProtocolError) else 0
                if isinstance(error, Refused) or invalid == MAX_PROTOCOL_ERRORS:
                    raise EvaluationError(f"the environment server opens no session: {error}") from error
                self._health.failed()
                if self._health.spent:
                    return None
                await self._stop.pause(_wait(next(waits), error))
        return None

    async def _play(self, key: AttemptKey, session: Session | None) -> Session | None:
        """Play an attempt and record its end. Return the session if it can be used again, else None."""
        attempt = self._make_attempt(key, self._health.progressed)
        failures, waits = AttemptFailures(Patience(self._limits.give_up_after_s)), self._pauses()
        record: AttemptRecord | None = None
        while record is None:
            try:
                session = session or await self._open()
                record = await attempt.play(session)
            except AttemptFailed as error:
                record = attempt.failed(error.status, str(error))
            except ServiceError as error:
                lost, session = session, None
                if lost is not None:
                    self._close(lost)  # the session's state is unknown
                if failures.add(error, len(attempt.played)):
                    waits = self._pauses()
                self._health.failed()
                record = self._ended(attempt, failures, error)
                if record is None:
                    if lost is not None:
                        attempt.restarts += 1
                        self._log.warning("attempt_restarts", attempt=str(key), reason=str(error))
                    await self._stop.pause(_wait(next(waits), error))
        await self._end(record)
        return session

    def _ended(self, attempt: Attempt, failures: AttemptFailures, error: ServiceError) -> AttemptRecord | None:
        """Return the record of the attempt if it ends because of its failures. Return None if the attempt continues.

        Raises:
            EvaluationError: the server refuses a task of the plan.
        """
        if isinstance(error, Refused) and not attempt.in_step:
            raise EvaluationError(f"the environment server refuses {attempt.key}: {error}") from error
        if failures.refusals == MAX_REFUSALS:
            return attempt.refused(str(error))
        if failures.invalid == MAX_PROTOCOL_ERRORS:
            reason = f"{MAX_PROTOCOL_ERRORS} invalid responses in a row from the environment server"
            return attempt.failed("infra_error", f"{reason}; last: {error}")
        if failures.patience.spent or self._health.spent:
            return attempt.failed("infra_error", str(error))
        return None

    async def _open(self) -> Session:
        (session,) = await self._sessions.open(1, ttl_s=self._limits.session_ttl_s)
        return session

    def _close(self, session: Session) -> None:
        """Close a session in the background, because a server that does not answer would delay the next session."""
        task = asyncio.ensure_future(session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _pauses(self) -> Iterator[float]:
        return pauses(self._limits.first_pause_s, self._limits.longest_pause_s)


def _wait(pause: float, error: ServiceError) -> float:
    return max(pause, error.retry_after_s) if isinstance(error, AtCapacity) else pause
