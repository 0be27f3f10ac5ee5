"""Session slots of one environment, which play attempts and retry during outages of the environment server.

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
from arlarena.client.errors import AtCapacity, ProtocolError, Refused, ServiceError
from arlarena.proto.backoff import pauses
from arlarena.proto.telemetry import Logger
from arlarena.rollout.evaluation.errors import AttemptFailed, EvaluationError, EvaluationStopped
from arlarena.rollout.evaluation.interrupts import StopSignal
from arlarena.rollout.evaluation.play.attempt import Attempt
from arlarena.rollout.evaluation.records import AttemptKey, AttemptRecord

# A step that the server refuses in this many sessions counts as refused because of its reply. With fewer refusals, the
# cause may be a damaged session.
MAX_REFUSALS = 3
# After this many invalid responses in a row, the server does not keep to the API, and further retries would not help.
# The limit is above 1, because a proxy may send its own page while the server restarts. The pauses between five
# responses are 4 s in total.
MAX_PROTOCOL_ERRORS = 5
# An attempt ends after this time without progress. The time is enough for a restart of the server with its data, and
# for a short outage at night. After a longer outage, a resume plays the attempt again.
GIVE_UP_AFTER_S = 1800.0
# Idle time of a session in seconds: longer than the pauses of a model's rate limit and most replies with reasoning. A
# session that ends earlier costs a replay and no request.
SESSION_TTL_S = 600.0
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
        one_by_one: play one attempt after the other, over all environments, because a person plays them.
    """

    sessions: int = 24
    session_ttl_s: float = SESSION_TTL_S
    give_up_after_s: float = GIVE_UP_AFTER_S
    first_pause_s: float = 0.25
    longest_pause_s: float = 5.0
    one_by_one: bool = False


class SessionSource(Protocol):
    """Opens sessions of an environment: `EnvironmentClient`, or an adapter of another kind of server."""

    async def open(self, count: int, *, ttl_s: float | None = None) -> Sequence[Session]:
        """Open sessions. Raises ServiceError if they cannot be opened."""
        ...


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


@dataclass(slots=True)
class AttemptFailures:
    """The failures of one attempt since its last progress, which is a further response.

    Attributes:
        patience: the time for which they last.
        refusals: refused steps in a row.
        invalid: invalid responses (`ProtocolError`) in a row.
    """

    patience: Patience
    turns: int = 0
    refusals: int = 0
    invalid: int = 0

    def add(self, error: ServiceError, turns: int) -> bool:
        """Count a failure. `turns`: number of responses of the attempt. Return whether there was progress before."""
        progressed = turns > self.turns
        if progressed:
            self.turns, self.refusals, self.invalid = turns, 0, 0
            self.patience.progressed()
        self.patience.failed()
        self.refusals = self.refusals + 1 if isinstance(error, Refused) else 0
        self.invalid = self.invalid + 1 if isinstance(error, ProtocolError) else 0
        return progressed


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
        """Open a session, with retries. Return None if no attempt waits any more, or the environment is given up.

        Raises:
            EvaluationError: the server refuses the request, or does not keep to the API.
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
        """Play an attempt and record its end. Return the session if it can be used again."""
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
                    self._close(lost)  # its state is unknown
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
        """Return the record of an attempt that ends because of its failures, or None if it continues.

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
        """Close a session in the background, because a hanging server would delay the next one."""
        task = asyncio.ensure_future(session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _pauses(self) -> Iterator[float]:
        return pauses(self._limits.first_pause_s, self._limits.longest_pause_s)


def _wait(pause: float, error: ServiceError) -> float:
    return max(pause, error.retry_after_s) if isinstance(error, AtCapacity) else pause
