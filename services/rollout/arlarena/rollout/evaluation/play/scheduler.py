"""Plays all attempts of an evaluation that have no final result yet.

Each environment has its own session slots, so an outage of one environment does not delay other environments. All
environments share the model's limits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from arlarena.proto.telemetry import Logger
from arlarena.rollout.evaluate import eval_assignment
from arlarena.rollout.evaluation.errors import EvaluationError, EvaluationStopped
from arlarena.rollout.evaluation.interrupts import StopSignal
from arlarena.rollout.evaluation.play.attempt import Attempt
from arlarena.rollout.evaluation.play.caller import AttemptCaller, ModelAccess
from arlarena.rollout.evaluation.play.journal import Journal
from arlarena.rollout.evaluation.play.pictures import PictureStore
from arlarena.rollout.evaluation.play.resume import EvaluationHistory
from arlarena.rollout.evaluation.play.slots import PlayLimits, SessionSource, SlotGroup
from arlarena.rollout.evaluation.records import AttemptKey, AttemptRecord, EvaluationPlan
from arlarena.rollout.evaluation.strategies.protocol import Player


@dataclass(frozen=True, slots=True)
class EvaluatedEnvironment:
    """An environment of the evaluation, with its player.

    Attributes:
        sessions: opens sessions of the environment.
        player: chooses the responses.
        pictures: loads images; None: images are not loaded.
    """

    sessions: SessionSource
    player: Player
    pictures: PictureStore | None = None


@dataclass(frozen=True, slots=True)
class EvaluationProgress:
    """The progress of an evaluation when an attempt ends.

    Attributes:
        record: the record of the attempt that ended.
        ended: number of attempts with a record, including attempts before a resume.
        total: number of all attempts in the plan.
        possibly_charged: number of requests that were possibly charged, but got no reply.
        seconds: time since this process created the `EvaluationRun`.
    """

    record: AttemptRecord
    ended: int
    total: int
    possibly_charged: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EvaluationOutcome:
    """The end of an evaluation.

    Attributes:
        results: the last record of each attempt that has a record.
        remaining: number of attempts without a final result.
        stopped: why the evaluation stopped early, or "".
        possibly_charged: number of requests that were possibly charged, but got no reply. It includes requests before a
            resume.
    """

    results: dict[AttemptKey, AttemptRecord]
    remaining: int
    stopped: str
    possibly_charged: int


class EvaluationRun:
    """The part of an evaluation that this process plays."""

    def __init__(
        self,
        plan: EvaluationPlan,
        environments: Mapping[str, EvaluatedEnvironment],
        journal: Journal,
        history: EvaluationHistory,
        access: ModelAccess | None,
        *,
        limits: PlayLimits | None = None,
        log: Logger | None = None,
        on_end: Callable[[EvaluationProgress], None] = lambda progress: None,
    ) -> None:
        """Create the run. It plays nothing until `run` is called.

        Args:
            plan: the plan of the evaluation.
            environments: the environments by their names in the plan.
            journal: the journal to which events and records are written.
            history: the journal's events before this process.
            access: the model; None: the players have no model.
            limits: how attempts are played; None: the defaults.
            log: logger for warnings; None: a new logger.
            on_end: is called after each attempt.
        """
        self.plan, self.environments, self.journal, self.access = plan, environments, journal, access
        self._history, self._limits, self._on_end = history, limits or PlayLimits(), on_end
        self._log = log or Logger("evaluation", "warning")
        self.results = history.results
        self._earlier_charges = history.possibly_charged
        if access is not None:
            access.budget.add_earlier(history.usages)
        self._stop, self._began = StopSignal(), time.monotonic()

    @property
    def total(self) -> int:
        """The number of attempts in the plan."""
        return self.plan.attempts * sum(len(one.indices) for one in self.plan.environments)

    @property
    def possibly_charged(self) -> int:
        """The number of requests that were possibly charged, but got no reply. It includes requests before a resume."""
        return self._earlier_charges + (self.access.possibly_charged if self.access else 0)

    def stop(self, reason: EvaluationStopped | EvaluationError) -> None:
        """Start no more attempts, and send no more requests. Replies to requests in flight are still recorded."""
        self._stop.set(reason)
        if self.access is not None:
            self.access.stop(reason)

    async def run(self) -> EvaluationOutcome:
        """Play all attempts that have no final result.

        Raises:
            EvaluationError: the evaluation cannot continue. The journal contains all results so far.
        """
        remaining_keys = self._history.remaining(self.plan)
        if self._limits.one_by_one:
            for name, keys in remaining_keys.items():
                await self._slots(name, keys)
        else:
            await _all([self._slots(name, keys) for name, keys in remaining_keys.items()])
        reason = self._stop.reason or (self.access.stopped if self.access else None)
        if isinstance(reason, EvaluationError):
            raise reason
        remaining = self.total - sum(record.scored for record in self.results.values())
        return EvaluationOutcome(self.results, remaining, str(reason or ""), self.possibly_charged)

    async def _slots(self, name: str, keys: Sequence[AttemptKey]) -> None:
        environment = self.environments[name]
        make = partial(self._attempt, environment)
        group = SlotGroup(environment.sessions, keys, make, self._end, self._stop, self._limits, self._log)
        sessions = 1 if self._limits.one_by_one else self._limits.sessions
        await _all([group.slot() for _ in range(min(sessions, len(keys)))])

    def _attempt(self, environment: EvaluatedEnvironment, key: AttemptKey, on_progress: Callable[[], None]) -> Attempt:
        assignment = eval_assignment(key.environment, key.split, self.plan.seed, key.index, key.attempt)
        access, caller = self.access, None
        if access is not None:
            caller = AttemptCaller(access, key, assignment.seed_key, self._history.of_attempt(key))
        sees = access is not None and access.model.sees_images
        return Attempt(
            key,
            assignment,
            environment.player,
            caller,
            environment.pictures,
            stop=self._stop,
            sees_images=sees,
            on_progress=on_progress,
        )

    async def _end(self, record: AttemptRecord) -> None:
        await self.journal.commit(record)
        self._history.attempts.pop(record.key, None)  # the recorded replies are no longer needed
        self.results[record.key] = record
        seconds = time.monotonic() - self._began
        self._on_end(EvaluationProgress(record, len(self.results), self.total, self.possibly_charged, seconds))


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for all coroutines. If a coroutine fails or this call is cancelled, cancel the other coroutines."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
