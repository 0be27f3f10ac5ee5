"""Keeps the workers busy within the capacity, and fills one batch of useful groups a step."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from arlarena.proto.stream import DeadLetter, Entry, Streams
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import Group, GroupTask, Sampling, Task
from arlarena.trainer.capacity import group_id
from arlarena.trainer.checkpoint import TrainerState
from arlarena.trainer.objectives import Recipe, Selected, Selection, Verdict, rule_at
from arlarena.trainer.scoring import Freshness, returns, successes
from arlarena.trainer.settings import TrainerSettings

CONSUMER = "trainer"
# How long one read of the stream may wait, in seconds; the loop looks at clocks and signals in between.
_BLOCK_S = 0.5


class RunError(RuntimeError):
    """The run cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Collected:
    """One step's groups.

    Attributes:
        selected: the batch, and what the filter dropped for good.
        seen: every group that was judged for this batch, for the figures of the step.
        stale: groups none of whose members was fresh enough.
        seconds: how long it took.
    """

    selected: Selected[Group]
    seen: list[Group]
    stale: int
    seconds: float


@dataclass(slots=True)
class Collector:
    """Issues tasks, receives groups, drops stale ones, and fills selections. One for the life of a trainer.

    Attributes:
        waiting: groups received and not yet judged; they hold their slots.
        consumed: stream ids by group, to be acknowledged once a checkpoint covers the group's end.
        interrupted: asked between two reads; True ends the collection with `Interrupted`.
    """

    streams: Streams
    settings: TrainerSettings
    recipe: Recipe
    state: TrainerState
    environment: str
    seed: int
    log: Logger
    interrupted: Callable[[], bool] = lambda: False
    waiting: deque[Group] = field(default_factory=deque)
    consumed: dict[str, str] = field(default_factory=dict)
    _finished_ids: list[str] = field(default_factory=list)
    _dead_in_a_row: int = 0
    _last_arrival: float = field(default_factory=time.monotonic)
    _last_issue: float = field(default_factory=time.monotonic)

    async def resume(self) -> None:
        """After a restart: take back what was delivered and not acknowledged, and issue again what is still open."""
        for entry in await self.streams.collect_pending(consumer=CONSUMER):
            self._receive(entry)
        await self._issue_again()

    async def batch(self) -> Collected:
        """Collect until the batch of this step is full.

        Raises:
            RunError: nothing arrived for `stall_s`, or too many groups in a row were dead letters.
            Interrupted: `interrupted()` became true.
        """
        started = time.monotonic()
        self._last_arrival = started  # a long optimiser step is not the workers' silence
        step, settings = self.state.step, self.settings
        selection: Selection[Group] = Selection(
            rule_at(self.recipe.filter, step, settings.cold_start_steps),
            settings.groups_per_step,
            max_tries=self.recipe.max_tries,
            backfill=self.recipe.backfill,
        )
        freshness = Freshness(step, settings.staleness, self.state.versions)
        seen: list[Group] = []
        stale = 0
        while not selection.is_full():
            if self.interrupted():
                raise Interrupted("asked to stop")
            if not self.waiting:
                await self._wait_for_groups()
                continue
            group = self.waiting.popleft()
            self.state.environment_steps += sum(len(trajectory.turns) for trajectory in group.trajectories)
            if not any(freshness.usable(trajectory) for trajectory in group.trajectories):
                self.state.ledger.settle(group.id, "stale", step)
                stale += 1
                continue
            seen.append(group)
            if selection.offer(group, returns(group), successes(group)) is Verdict.DROPPED:
                self.state.ledger.release(group.id)
        await self.top_up()
        return Collected(selection.close(), seen, stale, time.monotonic() - started)

    def settle(self, collected: Collected) -> None:
        """Note how each group of the step ended."""
        for group in collected.selected.batch:
            self.state.ledger.settle(group.id, "trained", self.state.step)
        for group in collected.selected.filtered:
            self.state.ledger.settle(group.id, "filtered", self.state.step)

    async def top_up(self) -> None:
        """Issue as many tasks as the capacity allows, so that workers play while the trainer computes."""
        indices = self.state.ledger.issue(
            self.state.ledger.allowance(self.settings.staleness, self.settings.groups_per_step)
        )
        if indices:
            await self.streams.issue([self._task(index) for index in indices])
            self._last_issue = time.monotonic()

    async def acknowledge(self) -> None:
        """Acknowledge every entry whose group is settled: a checkpoint must cover the lineage by now."""
        settled = [group for group in self.consumed if group in self.state.ledger.lineage]
        ids = [self.consumed.pop(group) for group in settled] + self._finished_ids
        self._finished_ids = []
        if ids:
            await self.streams.acknowledge(ids)

    def _task(self, index: int) -> GroupTask:
        settings = self.settings
        return GroupTask(
            group_id=group_id(index),
            task=Task(self.environment, settings.task_split, settings.first_task + index, self.seed),
            size=settings.group_size,
            sampling=Sampling(temperature=settings.temperature, max_tokens=settings.max_response_tokens),
            issued_at_step=self.state.step,
        )

    async def _wait_for_groups(self) -> None:
        await self.top_up()
        wanted = max(1, len(self.state.ledger.open))
        for entry in await self.streams.collect(consumer=CONSUMER, count=wanted, block_s=_BLOCK_S):
            self._receive(entry)
        silence = time.monotonic() - self._last_arrival
        if silence > self.settings.stall_s:
            raise RunError(
                f"no group arrived for {silence:.0f} s with {len(self.state.ledger.open)} outstanding: "
                f"are rollout workers running, and can they reach the environment and the policy server?"
            )
        if min(silence, time.monotonic() - self._last_issue) > self.settings.reissue_after_s:
            await self._issue_again()

    async def _issue_again(self) -> None:
        """Idempotent by group id: only what the broker has lost comes back."""
        here = {group.id for group in self.waiting} | set(self.consumed)
        indices = [index for group, index in self.state.ledger.open.items() if group not in here]
        self._last_issue = time.monotonic()
        if indices:
            count = await self.streams.issue([self._task(index) for index in indices])
            self.log.info("issued_again", outstanding=len(indices), lost=count)

    def _receive(self, entry: Entry) -> None:
        self._last_arrival = time.monotonic()
        ledger = self.state.ledger
        ledger.adopt(entry.group_id)
        if entry.group_id not in ledger.open or entry.group_id in self.consumed:
            # Settled by a checkpoint that was saved just before a crash, or of an older life of this run's name.
            self._finished_ids.append(entry.stream_id)
            return
        self.consumed[entry.group_id] = entry.stream_id
        if isinstance(entry.item, DeadLetter):
            self._bury(entry.item)
            return
        self._dead_in_a_row = 0
        self.waiting.append(entry.item)

    def _bury(self, letter: DeadLetter) -> None:
        self.state.ledger.settle(letter.group_id, "dead", self.state.step)
        self.log.error("group_dead", group=letter.group_id, reason=letter.reason, deliveries=letter.deliveries)
        self._dead_in_a_row += 1
        if self._dead_in_a_row >= self.settings.max_dead_in_a_row:
            raise RunError(f"{self._dead_in_a_row} groups in a row could not be played; the last: {letter.reason}")


class Interrupted(RuntimeError):
    """SIGTERM or Ctrl-C arrived; the newest checkpoint is where a resumed run goes on."""
