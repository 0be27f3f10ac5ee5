"""Issues tasks within the limit of open groups, and collects one batch of groups for each step.

The ledger (`state/ledger.py`) records all issued groups. A group is open until the ledger records its outcome. Each
entry of the stream `groups` contains a group or a dead letter. A dead letter reports that a group could not be played.
A step is lost if a crash happened between the step and the next checkpoint. An entry is handled in one of three ways:

- An open group is offered to the batch. If the group cannot be trained on, the ledger records its outcome at once.
- If an open group was sampled with weights of a lost step, the group is discarded, and its task is issued again.
- A group is not open if it has an outcome, or if it was issued in a lost step. The entry is acknowledged and ignored.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from arlarena.proto.streams.queue import BrokerFull, DeadLetter, GroupEntry, Streams
from arlarena.proto.task_order import TaskOrder, group_id
from arlarena.proto.telemetry import Logger
from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import Group, GroupTask, Sampling, Task
from arlarena.trainer.batching.scoring import returns, successes
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.batching.validation import refusal_reason
from arlarena.trainer.objectives import Recipe, Selected, Selection, Verdict, rule_at
from arlarena.trainer.settings import TrainerSettings
from arlarena.trainer.state.checkpoint import TrainerState
from arlarena.trainer.state.ledger import Outcome

CONSUMER = "trainer"
# Maximum duration of one read of the stream, in seconds. Timeouts and signals are checked between two reads.
_BLOCK_S = 0.5
# Maximum number of entries of one read after a restart.
_PAGE = 100


class RunError(RuntimeError):
    """The run cannot continue. The message says why. `permanent`: the error would occur again after a restart."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class Interrupted(RuntimeError):
    """SIGTERM or Ctrl-C arrived. The message is the signal's name."""


@dataclass(frozen=True, slots=True)
class Collected:
    """The groups of one step.

    Attributes:
        selected: the batch, and the groups that the filter dropped.
        seen: all groups that were offered to the batch (given to the filter), for the metrics of the step.
        stale: groups in which all members are too old. These groups were not offered to the batch.
        seconds: duration of the collection.
    """

    selected: Selected[Group]
    seen: list[Group]
    stale: list[Group]
    seconds: float


@dataclass(frozen=True, slots=True)
class CollectionProgress:
    """Progress of a batch.

    Attributes:
        groups: groups that passed the filter so far.
        groups_wanted: size of the batch.
        episodes: episodes in all groups that were offered to the batch.
        filtered: groups that the filter dropped.
        unsolved: groups without a successful episode, among the groups that the filter dropped.
    """

    groups: int
    groups_wanted: int
    episodes: int
    filtered: int
    unsolved: int


@dataclass(slots=True)
class Collector:
    """Issues tasks, receives and validates groups, and collects batches.

    Attributes:
        order: maps group indices to tasks.
        vocabulary: number of token ids of the policy.
        waiting: groups that were received, but not yet offered to a batch.
        consumed: stream id of each received entry, by group id. The entry is acknowledged after a checkpoint contains
            the outcome of the group.
        guard: called between reads of the stream. It raises an exception after a signal, or if the lease is lost.
        free_broker_memory: saves a checkpoint and acknowledges entries. It is called if the broker is full, or if no
            group arrives for `reissue_after_s`. Unacknowledged entries may fill the broker's memory, and a full broker
            accepts no groups.
        on_progress: called with the progress of the batch, about every half second.
        broker_full: whether the broker refused the newest write because its memory is full.
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
    free_broker_memory: Callable[[], Awaitable[None]] | None = None
    on_progress: Callable[[CollectionProgress], None] = lambda _: None
    waiting: deque[Group] = field(default_factory=deque)
    consumed: dict[str, str] = field(default_factory=dict)
    broker_full: bool = False
    _unusable_in_a_row: int = 0
    _last_arrival: float = field(default_factory=time.monotonic)
    _last_issue: float = field(default_factory=time.monotonic)

    @property
    def capacity(self) -> int:
        """The number of slots for open groups: (S + 1)·B, with S = `staleness` and B = `groups_per_step`."""
        return (self.settings.staleness + 1) * self.settings.groups_per_step

    async def resume(self) -> None:
        """Restore the streams after a restart: receive unacknowledged entries again, and issue open tasks again.

        The steps of the previous process after the checkpoint are lost. Groups that were sampled with weights of lost
        steps are discarded, and their tasks are issued again. Tasks that were issued in lost steps are withdrawn: these
        tasks will be issued again in later steps, and workers must not start them earlier.
        """
        await self._receive_pending(after_restart=True)
        while entries := await self.streams.collect(consumer=CONSUMER, count=_PAGE, block_s=0.0):
            await self._receive_all(entries, after_restart=True)
        unknown = await self.streams.outstanding() - self.state.ledger.open.keys() - self.consumed.keys()
        if unknown:
            await self.streams.withdraw(unknown)
            self.log.info("withdrawn", groups=len(unknown))
        await self._issue_again()

    async def batch(self) -> Collected:
        """Collect groups until the batch of this step is full. Then issue tasks for later steps.

        If a group cannot be trained on, its outcome is recorded at once. `settle` records the outcomes of the other
        groups later. A checkpoint of the state is therefore consistent even if this method raises an exception.

        Raises:
            RunError: no group arrived for `no_data_timeout_s`, or too many consecutive groups were unusable.
            Interrupted, TrainerLeaseLost: raised by `guard`.
        """
        started = time.monotonic()
        self._last_arrival = started  # the time of the training step does not count as time without data
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
            self.on_progress(
                CollectionProgress(selection.kept, settings.groups_per_step, episodes, selection.dropped, unsolved)
            )
            if not self.waiting:
                await self._wait_for_groups(self._issue_limit(selection, len(seen) + len(stale)))
                continue
            group = self.waiting.popleft()
            if not any(staleness_policy.usable(trajectory) for trajectory in group.trajectories):
                stale.append(group)
                self.state.ledger.release(group.id)
                self._count_unusable(
                    f"{group.id} was sampled by weights of step {group.oldest.step}, more than "
                    f"{counted(settings.staleness, 'step')} behind step {step}: do the policy servers load new "
                    f"weights?",
                    self.capacity,
                )
                continue
            seen.append(group)
            if selection.offer(group, returns(group), successes(group)) is Verdict.DROPPED:
                unsolved += not any(successes(group))
                self.state.ledger.release(group.id)
        await self.top_up(self._issue_limit(selection, len(seen) + len(stale)))
        return Collected(selection.close(), seen, stale, time.monotonic() - started)

    def settle(self, collected: Collected, skipped_groups: frozenset[str] = frozenset()) -> None:
        """Record the outcome of each group of the step, and count the turns of these groups.

        `skipped_groups`: ids of the groups in updates that were not applied.
        """
        ledger, step = self.state.ledger, self.state.step
        for group in collected.selected.batch:
            ledger.settle(group.id, "skipped" if group.id in skipped_groups else "trained", step)
        for group in collected.selected.filtered:
            ledger.settle(group.id, "filtered", step)
        for group in collected.stale:
            ledger.settle(group.id, "stale", step)
        groups = [*collected.seen, *collected.stale]
        self.state.environment_steps += sum(len(each.turns) for group in groups for each in group.trajectories)

    def _issue_limit(self, selection: Selection[Group], judged: int) -> int:
        """Return how many tasks may be issued now: `staleness` · `groups_per_step` + W - N.

        W is the number of groups that the batch still needs, but at most `selection.left`. N is the number of open
        groups that are not judged. A group is judged if the group was offered to the batch of this step or is stale.
        `judged`: the number of judged groups. The ledger lists judged groups as open until `settle` is called.

        The ledger's own limit (`Ledger.allowance`) cannot be used here: it leaves room for a full batch, even if
        `max_tries` makes the batch close with fewer groups. The additional groups would be one step too old.
        """
        size = self.settings.groups_per_step
        wanted = 0 if selection.is_full() else min(size - selection.kept, selection.left)
        return self.settings.staleness * size + wanted - (len(self.state.ledger.open) - judged)

    async def top_up(self, limit: int | None = None) -> None:
        """Issue as many tasks as the ledger allows, but at most `limit`. Workers play these tasks during training."""
        count = self.state.ledger.allowance(self.settings.staleness, self.settings.groups_per_step)
        await self._issue(self.state.ledger.issue(count if limit is None else max(0, min(count, limit))))

    async def acknowledge(self) -> None:
        """Acknowledge the entries of groups with an outcome. Call this method directly after a durable checkpoint."""
        settled = [group for group in self.consumed if group in self.state.ledger.lineage]
        if settled:
            await self.streams.acknowledge({self.consumed.pop(group): group for group in settled})

    async def withdraw_open(self) -> None:
        """At the end of the run, record the outcome `unused` for all open groups, and withdraw their tasks."""
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
        """Issue the tasks of the groups with `indices`. Returns the number of tasks that the broker did not have yet.

        If the memory of the broker is full, no task is issued, and the result is 0. The groups stay open in the ledger,
        and their tasks are issued again later.
        """
        if not indices:
            return 0
        try:
            count = await self.streams.issue([self._task(index) for index in indices])
        except BrokerFull as error:
            self._set_broker_full(error)
            return 0
        if count:  # without a write, nothing is known about the broker's memory
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
                f"no group arrived for {silence:.0f} s, but {counted(len(self.state.ledger.open), 'group')} should "
                f"arrive: are rollout workers running, and can they reach the environment and the policy server?"
            )
        if self.broker_full or min(silence, time.monotonic() - self._last_issue) > self.settings.reissue_after_s:
            if self.free_broker_memory is not None:
                await self.free_broker_memory()
            await self._receive_pending()
            await self._issue_again()

    def _set_broker_full(self, error: BrokerFull) -> None:
        if not self.broker_full:
            self.log.warning("broker_full", reason=str(error))
        self.broker_full = True

    async def _issue_again(self) -> None:
        """Issue all open tasks again. The broker ignores tasks that it already has, so only lost tasks are added."""
        indices = [index for group, index in self.state.ledger.open.items() if group not in self.consumed]
        count = await self._issue(indices)
        if indices and not self.broker_full:
            self.log.info("issued_again", outstanding=len(indices), lost=count)
        self._last_issue = time.monotonic()

    async def _receive_pending(self, *, after_restart: bool = False) -> None:
        """Receive all entries again that were delivered to a consumer, but not acknowledged."""
        await self._receive_all(await self.streams.collect_pending(consumer=CONSUMER), after_restart=after_restart)

    async def _receive_all(self, entries: list[GroupEntry], *, after_restart: bool = False) -> None:
        """Handle `entries` by the three rules in the docstring of this module.

        After a restart, groups that were sampled with unknown weights are expected, and do not count as unusable.
        """
        ignored: dict[str, str] = {}
        again: list[int] = []
        for entry in entries:
            if self.consumed.get(entry.group_id) == entry.stream_id:
                continue  # the entry was received before
            index = self.state.ledger.open.get(entry.group_id)
            if index is None or entry.group_id in self.consumed:
                ignored[entry.stream_id] = entry.group_id
            elif version := self._unknown_version(entry):
                ignored[entry.stream_id] = entry.group_id
                again.append(index)
                if not after_restart:
                    self._count_unusable(f"sampled by weights that this run does not know ({version})", self.capacity)
            else:
                await self._receive(entry, index)
        if ignored:
            await self.streams.acknowledge(ignored)
        if again:
            await self._issue(again)
            self.log.info("discarded", groups=len(again), reason="sampled by weights that this run does not know")

    async def _receive(self, entry: GroupEntry, index: int) -> None:
        self._last_arrival = time.monotonic()
        if isinstance(entry.item, DeadLetter):
            self.consumed[entry.group_id] = entry.stream_id
            self._drop(entry, "dead", entry.item.reason)
            return
        group = entry.item
        reason = refusal_reason(group, vocabulary=self.vocabulary, recipe=self.recipe, task=self._task(index))
        if reason is not None:
            try:
                await self.streams.copy_to_dead_letters(entry, reason)
            except BrokerFull as error:
                return self._set_broker_full(error)  # the entry stays pending and is delivered again
            self.broker_full = False
        self.consumed[group.id] = entry.stream_id
        if reason is not None:
            self._drop(entry, "dead", reason, permanent=True)
        elif not any(trajectory.turns for trajectory in group.trajectories):
            self._drop(entry, "empty", empty_reason(group), permanent=True)
        else:
            staleness_policy = StalenessPolicy(self.state.step, self.settings.staleness, self.state.versions)
            if any(map(staleness_policy.usable, group.trajectories)):
                self._unusable_in_a_row = 0
            self.waiting.append(group)

    def _unknown_version(self, entry: GroupEntry) -> str | None:
        """Return the first version (weights of one step) that sampled a token of the group, but is unknown to this run.

        Returns None if all versions are known.
        """
        if isinstance(entry.item, DeadLetter):
            return None
        for trajectory in entry.item.trajectories:
            for turn in trajectory.turns:
                for span in turn.spans:
                    if span.version.digest not in self.state.versions:
                        return str(span.version)
        return None

    def _drop(self, entry: GroupEntry, outcome: Outcome, reason: str, *, permanent: bool = False) -> None:
        """Record and log the outcome of a group that cannot be trained on, and count the group as unusable."""
        self.state.ledger.settle(entry.group_id, outcome, self.state.step)
        self.log.error(f"group_{outcome}", group=entry.group_id, reason=reason)
        self._count_unusable(reason, permanent=permanent)

    def _count_unusable(self, reason: str, expected: int = 0, *, permanent: bool = False) -> None:
        """Add 1 to the number of consecutive unusable groups. The limit is `max_unusable_in_a_row` plus `expected`.

        `expected`: the number of unusable groups that can occur without an error. `permanent`: the groups would also be
        unusable after a restart.

        Raises:
            RunError: the limit is reached.
        """
        self._unusable_in_a_row += 1
        if self._unusable_in_a_row >= self.settings.max_unusable_in_a_row + expected:
            count = counted(self._unusable_in_a_row, "group")
            raise RunError(f"{count} in a row could not be used; reason of the last: {reason}", permanent=permanent)


def empty_reason(group: Group) -> str:
    """Return the reason why no member of a group has a turn, and how to fix the problem."""
    faults = [trajectory.fault for trajectory in group.trajectories if trajectory.fault]
    if not faults:
        return f"task {group.task.id} ends before the first turn; choose tasks that have turns to play"
    return (
        f"{faults[0]}: either give the policy a longer context ([policy.tiny] max_positions or [inference] "
        f"max_model_len), or make the prompt shorter ([environment.options] template or history)"
    )
