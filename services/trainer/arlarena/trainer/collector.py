"""Keeps the workers busy within the capacity, and fills one batch of useful groups a step.

Every entry of the stream `groups` ends in exactly one way. A group of the ledger is judged, or settled at once where
nothing can be learnt from it. A group that weights of a lost step sampled is discarded and its task issued again. An
entry of no open group (already settled, or issued by a trainer whose steps were lost) is acknowledged and forgotten.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from arlarena.proto.streams.queue import BrokerFull, DeadLetter, GroupEntry, Streams
from arlarena.proto.task_order import TaskOrder
from arlarena.proto.telemetry import Logger
from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import Group, GroupTask, Sampling, Task
from arlarena.trainer.batching.scoring import returns, successes
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.batching.validation import refusal
from arlarena.trainer.objectives import Recipe, Selected, Selection, Verdict, rule_at
from arlarena.trainer.settings import TrainerSettings
from arlarena.trainer.state.checkpoint import TrainerState
from arlarena.trainer.state.ledger import Outcome, group_id

CONSUMER = "trainer"
# How long one read of the stream may wait, in seconds; the loop looks at clocks and signals in between.
_BLOCK_S = 0.5
# Entries asked for at a time after a restart.
_PAGE = 100


class RunError(RuntimeError):
    """The run cannot go on; the message says why. `permanent`: a trainer that is started again would meet it again."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class Interrupted(RuntimeError):
    """SIGTERM or Ctrl-C arrived. The message is the signal's name."""


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
    stale: list[Group]
    seconds: float


@dataclass(frozen=True, slots=True)
class Collecting:
    """How far a batch is: groups that it has and needs, episodes looked at, groups that the filter dropped, and those
    of them that no member solved.
    """

    groups: int
    groups_wanted: int
    episodes: int
    filtered: int
    unsolved: int


@dataclass(slots=True)
class Collector:
    """Issues tasks, receives groups, drops those that nothing can be learnt from, and fills selections. There is one
    for the life of a trainer.

    Attributes:
        order: which task is drawn for which group.
        vocabulary: token ids of the policy are below it.
        waiting: groups received and not yet judged; they hold their slots.
        consumed: stream ids by group, to be acknowledged once a checkpoint covers the group's end.
        guard: called between two reads; raises where the trainer must stop (a signal, a lost lease).
        make_room: saves a checkpoint and acknowledges what it covers; called when nothing arrives, since a broker whose
            memory is full of entries that wait for a checkpoint takes no more groups.
        watch: called while a batch is collected, at least every half second, with what it has so far.
        broker_full: whether the broker refused the last write.
    """

    streams: Streams
    settings: TrainerSettings
    recipe: Recipe
    state: TrainerState
    environment: str
    order: TaskOrder
    vocabulary: int
    log: Logger
    guard: Callable[[], None] = lambda: None
    make_room: Callable[[], Awaitable[None]] | None = None
    watch: Callable[[Collecting], None] = lambda _: None
    waiting: deque[Group] = field(default_factory=deque)
    consumed: dict[str, str] = field(default_factory=dict)
    broker_full: bool = False
    _unusable_in_a_row: int = 0
    _last_arrival: float = field(default_factory=time.monotonic)
    _last_issue: float = field(default_factory=time.monotonic)

    @property
    def capacity(self) -> int:
        """The most groups that may be out at a time, (S + 1)·B."""
        return (self.settings.staleness + 1) * self.settings.groups_per_step

    async def resume(self) -> None:
        """After a restart: take back what was published and not acknowledged, forget what the checkpoint does not know,
        and issue again what is still open.

        The last trainer may have been many steps ahead of the checkpoint. What its lost weights sampled is discarded,
        and the tasks that it had issued beyond the capacity are withdrawn, so that they are not played too early.
        """
        await self._take_pending(after_restart=True)
        while entries := await self.streams.collect(consumer=CONSUMER, count=_PAGE, block_s=0.0):
            await self._receive_all(entries, after_restart=True)
        unknown = await self.streams.outstanding() - self.state.ledger.open.keys() - self.consumed.keys()
        if unknown:
            await self.streams.withdraw(unknown)
            self.log.info("withdrawn", groups=len(unknown))
        await self._issue_again()

    async def batch(self) -> Collected:
        """Collect until the batch of this step is full.

        The state changes only by what `settle` is told of the result, apart from groups from which nothing can be
        learnt: a checkpoint that is saved when this raises is consistent.

        Raises:
            RunError: nothing arrived for `no_data_timeout_s`, or too many groups in a row could not be used.
            Interrupted, LeaseLost: raised by `guard`.
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
        staleness_policy = StalenessPolicy(step, settings.staleness, self.state.versions)
        seen: list[Group] = []
        stale: list[Group] = []
        unsolved = 0
        while not selection.is_full():
            self.guard()
            episodes = sum(len(each.trajectories) for each in seen)
            self.watch(Collecting(selection.kept, settings.groups_per_step, episodes, selection.dropped, unsolved))
            if not self.waiting:
                await self._wait_for_groups(self._room(selection, len(seen) + len(stale)))
                continue
            group = self.waiting.popleft()
            if not any(staleness_policy.usable(trajectory) for trajectory in group.trajectories):
                stale.append(group)
                self.state.ledger.release(group.id)
                self._unusable(
                    f"{group.id} was sampled by weights of step {group.oldest.step}, more than {settings.staleness} "
                    f"behind step {step}: do the policy servers take new weights?",
                    self.capacity,
                )
                continue
            seen.append(group)
            if selection.offer(group, returns(group), successes(group)) is Verdict.DROPPED:
                unsolved += not any(successes(group))
                self.state.ledger.release(group.id)
        await self.top_up(self._room(selection, len(seen) + len(stale)))
        return Collected(selection.close(), seen, stale, time.monotonic() - started)

    def settle(self, collected: Collected, skipped: frozenset[str] = frozenset()) -> None:
        """Note how each group of the step ended, and the experience. `skipped`: ids of groups whose update was not
        applied.
        """
        ledger, step = self.state.ledger, self.state.step
        for group in collected.selected.batch:
            ledger.settle(group.id, "skipped" if group.id in skipped else "trained", step)
        for group in collected.selected.filtered:
            ledger.settle(group.id, "filtered", step)
        for group in collected.stale:
            ledger.settle(group.id, "stale", step)
        judged = [*collected.seen, *collected.stale]
        self.state.environment_steps += sum(len(each.turns) for group in judged for each in group.trajectories)

    def _room(self, selection: Selection[Group], judged: int) -> int:
        """How many more groups may be out while a batch is collected: those of S later steps, and those that the batch
        may still take. The ledger alone would count a batch that the filter leaves small as room for more; they would
        be played by the weights before its step, and be a step too old. `judged`: open groups that were judged.
        """
        size = self.settings.groups_per_step
        wanted = 0 if selection.is_full() else min(size - selection.kept, selection.left)
        return self.settings.staleness * size + wanted - (len(self.state.ledger.open) - judged)

    async def top_up(self, limit: int | None = None) -> None:
        """Issue as many tasks as the capacity allows, at most `limit`, so that workers play while the trainer
        computes.
        """
        count = self.state.ledger.allowance(self.settings.staleness, self.settings.groups_per_step)
        await self._issue(self.state.ledger.issue(count if limit is None else max(0, min(count, limit))))

    async def acknowledge(self) -> None:
        """Acknowledge every entry whose group is settled. Call it right after a durable checkpoint."""
        settled = [group for group in self.consumed if group in self.state.ledger.lineage]
        if settled:
            await self.streams.acknowledge({self.consumed.pop(group): group for group in settled})

    async def withdraw_open(self) -> None:
        """Settle what is still open as unused, and take its tasks from the workers: the run is over."""
        open_groups = list(self.state.ledger.open)
        for group in open_groups:
            self.state.ledger.settle(group, "unused", self.state.step)
        if open_groups:
            await self.streams.withdraw(open_groups)

    def _task(self, index: int) -> GroupTask:
        settings = self.settings
        return GroupTask(
            group_id=group_id(index),
            task=Task(self.environment, settings.task_split, self.order.index(index), self.order.seed),
            size=settings.group_size,
            sampling=Sampling(temperature=settings.temperature, max_tokens=settings.max_response_tokens),
            issued_at_step=self.state.step,
        )

    async def _issue(self, indices: list[int]) -> int:
        """Issue these tasks; how many the broker did not have. Those that a full broker refuses stay open in the
        ledger, and are issued again as soon as it has room.
        """
        if not indices:
            return 0
        try:
            count = await self.streams.issue([self._task(index) for index in indices])
        except BrokerFull as error:
            self._note_full(error)
            return 0
        if count:  # else nothing was written, which says nothing about the memory
            self.broker_full = False
        self._last_issue = time.monotonic()
        return count

    async def _wait_for_groups(self, limit: int) -> None:
        await self.top_up(limit)
        wanted = max(1, len(self.state.ledger.open))
        await self._receive_all(await self.streams.collect(consumer=CONSUMER, count=wanted, block_s=_BLOCK_S))
        silence = time.monotonic() - self._last_arrival
        if silence > self.settings.no_data_timeout_s:
            raise RunError(
                f"no group arrived for {silence:.0f} s with {len(self.state.ledger.open)} outstanding: "
                f"are rollout workers running, and can they reach the environment and the policy server?"
            )
        if self.broker_full or min(silence, time.monotonic() - self._last_issue) > self.settings.reissue_after_s:
            if self.make_room is not None:
                await self.make_room()
            await self._take_pending()
            await self._issue_again()

    def _note_full(self, error: BrokerFull) -> None:
        if not self.broker_full:
            self.log.warning("broker_full", reason=str(error))
        self.broker_full = True

    async def _issue_again(self) -> None:
        """Idempotent by group id: only what the broker has lost, or has refused, comes back."""
        indices = [index for group, index in self.state.ledger.open.items() if group not in self.consumed]
        count = await self._issue(indices)
        if indices and not self.broker_full:
            self.log.info("issued_again", outstanding=len(indices), lost=count)
        self._last_issue = time.monotonic()

    async def _take_pending(self, *, after_restart: bool = False) -> None:
        """Receive what was delivered under any consumer name and never came here."""
        await self._receive_all(await self.streams.collect_pending(consumer=CONSUMER), after_restart=after_restart)

    async def _receive_all(self, entries: list[GroupEntry], *, after_restart: bool = False) -> None:
        """Receive entries; forget and issue again as the head of this file says.

        After a restart, groups of unknown weights are to be expected and do not count as unusable.
        """
        forgotten: dict[str, str] = {}
        again: list[int] = []
        for entry in entries:
            if self.consumed.get(entry.group_id) == entry.stream_id:
                continue  # delivered once more
            index = self.state.ledger.open.get(entry.group_id)
            if index is None or entry.group_id in self.consumed:
                forgotten[entry.stream_id] = entry.group_id
            elif strange := self._unknown_version(entry):
                forgotten[entry.stream_id] = entry.group_id
                again.append(index)
                if not after_restart:
                    self._unusable(f"weights that this run does not know sampled it ({strange})", self.capacity)
            else:
                await self._receive(entry, index)
        if forgotten:
            await self.streams.acknowledge(forgotten)
        if again:
            await self._issue(again)
            self.log.info("discarded", groups=len(again), reason="sampled by weights that the checkpoint does not know")

    async def _receive(self, entry: GroupEntry, index: int) -> None:
        self._last_arrival = time.monotonic()
        if isinstance(entry.item, DeadLetter):
            self.consumed[entry.group_id] = entry.stream_id
            self._drop(entry, "dead", entry.item.reason)
            return
        group = entry.item
        reason = refusal(group, vocabulary=self.vocabulary, recipe=self.recipe, task=self._task(index))
        if reason is not None:
            try:
                await self.streams.condemn(entry, reason)
            except BrokerFull as error:
                return self._note_full(error)  # the entry is still pending, and comes again
            self.broker_full = False
        self.consumed[group.id] = entry.stream_id
        if reason is not None:
            self._drop(entry, "dead", reason, permanent=True)
        elif not any(trajectory.turns for trajectory in group.trajectories):
            self._drop(entry, "empty", why_empty(group), permanent=True)
        else:
            staleness_policy = StalenessPolicy(self.state.step, self.settings.staleness, self.state.versions)
            if any(map(staleness_policy.usable, group.trajectories)):
                self._unusable_in_a_row = 0
            self.waiting.append(group)

    def _unknown_version(self, entry: GroupEntry) -> str | None:
        """A policy version that sampled a token of the group and is not in this run's history."""
        if isinstance(entry.item, DeadLetter):
            return None
        for trajectory in entry.item.trajectories:
            for turn in trajectory.turns:
                for span in turn.spans:
                    if span.version.digest not in self.state.versions:
                        return str(span.version)
        return None

    def _drop(self, entry: GroupEntry, outcome: Outcome, reason: str, *, permanent: bool = False) -> None:
        """Settle a group from which nothing can be learnt."""
        self.state.ledger.settle(entry.group_id, outcome, self.state.step)
        self.log.error(f"group_{outcome}", group=entry.group_id, reason=reason)
        self._unusable(reason, permanent=permanent)

    def _unusable(self, reason: str, expected: int = 0, *, permanent: bool = False) -> None:
        """Count a group in a row that could not be used; `expected` more than the setting are allowed. `permanent`: the
        groups of another start would be no better.

        Raises:
            RunError: there were too many.
        """
        self._unusable_in_a_row += 1
        if self._unusable_in_a_row >= self.settings.max_unusable_in_a_row + expected:
            count = counted(self._unusable_in_a_row, "group")
            raise RunError(f"{count} in a row could not be used; the last: {reason}", permanent=permanent)


def why_empty(group: Group) -> str:
    """Why no member of a group has a turn, and what to do about it."""
    faults = [trajectory.fault for trajectory in group.trajectories if trajectory.fault]
    if not faults:
        return f"task {group.task.id} is over before the first turn: its tasks leave nothing to play"
    return (
        f"{faults[0]}: give the policy a longer context ([policy.tiny] max_positions, or --max-model-len in "
        f"[inference] vllm_arguments), or make the prompt shorter ([environment.options] template, history)"
    )
