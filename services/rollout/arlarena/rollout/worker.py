"""The worker leases groups, plays their episodes concurrently in one event loop, and publishes complete groups.

The worker renews a lease while it plays the group. If a service is unavailable, the worker returns the group to the
queue without a score, and the queue delivers the group again. After `max_deliveries` deliveries, the group becomes a
dead letter: it is not played again. If a service refuses a request, the group becomes a dead letter at once. If a
worker is killed, its leases expire, and other workers play its groups.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from arlarena.client.errors import Refused, ServiceError
from arlarena.client.policy import PolicyClient
from arlarena.proto.streams.queue import GroupLease, Streams
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import Group, GroupTask, PolicyVersion, Sampling, Trajectory
from arlarena.rollout.episode import Assignment, Policy
from arlarena.rollout.runner import InfraFailure, Runner
from arlarena.rollout.settings import RolloutSettings

# The number of renewals in `lease_ttl_s`. With 3 renewals, a lease stays valid if two renewals in a row fail.
RENEWALS_PER_TTL = 3
PolicyFactory = Callable[[Sampling], Policy]


def version_range(trajectories: Iterable[Trajectory]) -> tuple[PolicyVersion, PolicyVersion] | None:
    """Returns (oldest, newest): of all versions that sampled a token, those with the lowest and the highest step.

    Returns None if no token was sampled.
    """
    versions = [span.version for trajectory in trajectories for turn in trajectory.turns for span in turn.spans]
    if not versions:
        return None
    return min(versions, key=lambda v: v.step), max(versions, key=lambda v: v.step)


async def play_group(
    runner: Runner, policy: Policy, group_task: GroupTask, worker: str, finished: Callable[[], None] = lambda: None
) -> Group:
    """Play all episodes of one group concurrently. Returns the group.

    The function calls `finished` once for each started episode, after it has tried to close the episode's session.
    Other episodes were cancelled before their start.

    Raises:
        InfraFailure, ServiceError: the sessions could not be opened, or an episode failed. If an episode failed, the
            other episodes of the group are cancelled.
    """
    slots = await runner.open(group_task.size)

    async def member(number: int) -> Trajectory:
        name = f"{group_task.group_id}-{number}"
        try:
            # The task's seed is the run's seed. Runs with different seeds therefore draw different samples.
            assignment = Assignment(name, group_task.task, f"{group_task.task.seed}/{group_task.group_id}/{number}")
            return (await runner.episode(slots[number], assignment, policy)).trajectory
        finally:
            await runner.close([slots[number]])
            finished()

    playing = [asyncio.ensure_future(member(number)) for number in range(group_task.size)]
    try:
        trajectories = tuple(await asyncio.gather(*playing))
    finally:
        await _cancel(playing)
        # `member` has closed the slots of all started episodes. Only slots of episodes that were cancelled before their
        # start are still open.
        await runner.close(slots)
    oldest, newest = version_range(trajectories) or await _served_version_range(runner.inference)
    return Group(
        id=group_task.group_id,
        task=group_task.task,
        size=group_task.size,
        trajectories=trajectories,
        sampling=group_task.sampling,
        oldest=oldest,
        newest=newest,
        worker=worker,
        retries=sum(slot.restarts for slot in slots),
    )


async def _served_version_range(inference: PolicyClient | None) -> tuple[PolicyVersion, PolicyVersion]:
    """Returns the served version twice, as the oldest and newest version of a group without sampled tokens."""
    version = await inference.version() if inference is not None else PolicyVersion("none", 0, "-")
    return version, version


@dataclass(slots=True)
class WorkerCounters:
    """Counters of a worker since its start.

    Counters of groups: `completed`: this worker published the group. `duplicates`: another worker had already published
    the group. `failed`: a service was unavailable or refused a request. `lost`: the lease expired. `released`: the
    worker stopped and returned the group to the queue.

    `episodes`, `turns` and `response_tokens`: totals of the groups in `completed` and `duplicates`. `started`: start
    time of the worker on the monotonic clock, in seconds.
    """

    completed: int = 0
    duplicates: int = 0
    failed: int = 0
    lost: int = 0
    released: int = 0
    episodes: int = 0
    turns: int = 0
    response_tokens: int = 0
    started: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class ActiveGroup:
    """A group that the worker plays. `episodes_left`: number of unfinished episodes.

    `finishing`: True while the group is being published or returned to the queue. Publishing takes long if the
    broker's memory is full.
    """

    lease: GroupLease
    episodes_left: int
    finishing: bool = False


class Worker:
    """One worker of a run. `policy_for` creates the policy for the sampling parameters of a group."""

    def __init__(
        self,
        name: str,
        streams: Streams,
        runner: Runner,
        policy_for: PolicyFactory,
        settings: RolloutSettings,
        log: Logger,
    ) -> None:
        self.name, self.counters = name, WorkerCounters()
        self._streams, self._runner, self._policy_for = streams, runner, policy_for
        self._settings, self._log = settings, log
        self._playing: dict[asyncio.Task[None], ActiveGroup] = {}
        self._progress = asyncio.Event()

    @property
    def playing(self) -> int:
        """The number of groups that the worker plays now."""
        return len(self._playing)

    async def run(self, stop: asyncio.Event) -> None:
        """Play groups until `stop` is set or `stop_file` exists. Then wait at most `drain_s` for the current groups.
        After `drain_s`, unfinished groups go back to the queue.

        Raises:
            StreamError: the broker is unreachable after all retries, or refuses a command.
        """
        self._log.info("ready", worker=self.name, groups_in_flight=self._settings.groups_in_flight)
        renewal = asyncio.ensure_future(self._renew_loop())
        leasing = asyncio.ensure_future(self._lease_until(stop))
        reports = asyncio.ensure_future(self._report_loop(stop))
        try:
            await asyncio.wait((renewal, leasing), return_when=asyncio.FIRST_COMPLETED)
            for task in (renewal, leasing):
                if task.done():
                    task.result()
            await self._drain()
        finally:
            await _cancel((renewal, leasing, reports, *self._playing))
            self._log.info("stopped", worker=self.name, **self._log_fields())

    async def _lease_until(self, stop: asyncio.Event) -> None:
        # At most one request for a task is pending. It is not cancelled: the broker may already have leased a task to
        # this worker, and the lease would be lost with the request.
        while not stop.is_set():
            if self._load() > self._settings.groups_in_flight - 1:
                await self._wait_for_progress(stop)
            elif lease := await self._streams.lease(consumer=self.name, block_s=self._settings.lease_block_s):
                if stop.is_set():
                    await self._streams.release(lease, counted=False)
                else:
                    self._start(lease)
            self._remove_finished()

    def _load(self) -> float:
        """Returns the load of this worker in groups. A group counts as its fraction of unfinished episodes.

        A group that waits for its slowest episode therefore leaves room for other groups. If a group has no unfinished
        episode, the worker publishes it, and it counts as 1. This rule limits the number of groups in memory while the
        broker is full.
        """
        return sum(
            active.episodes_left / active.lease.task.size if active.episodes_left else 1.0
            for active in self._playing.values()
        )

    async def _wait_for_progress(self, stop: asyncio.Event) -> None:
        self._progress.clear()
        waits = [asyncio.ensure_future(event.wait()) for event in (self._progress, stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _start(self, lease: GroupLease) -> None:
        active = ActiveGroup(lease, lease.task.size)
        task = asyncio.ensure_future(self._serve(active))
        task.add_done_callback(lambda _: self._progress.set())
        self._playing[task] = active

    def _remove_finished(self) -> None:
        """Remove finished asyncio tasks. If a task failed (broker error or bug), raise its exception."""
        for task in [task for task in self._playing if task.done()]:
            del self._playing[task]
            if not task.cancelled():
                task.result()

    async def _serve(self, active: ActiveGroup) -> None:
        """Play and publish one group.

        If a service is unavailable, return the group to the queue. After the last delivery, or if a service refuses a
        request, the group becomes a dead letter instead.
        """
        started, lease, group_task = time.monotonic(), active.lease, active.lease.task

        def finished() -> None:
            active.episodes_left -= 1
            self._progress.set()

        try:
            group = await play_group(
                self._runner, self._policy_for(group_task.sampling), group_task, self.name, finished
            )
            active.finishing = True
        except (InfraFailure, ServiceError) as error:
            active.finishing = True
            self.counters.failed += 1
            self._log.error("group_failed", group=group_task.group_id, delivery=lease.deliveries, reason=str(error))
            await self._streams.fail(lease, str(error), final=isinstance(error, Refused))
            return
        published = await self._streams.complete(lease, group)
        self._count(group, published)
        self._log.info(
            "group_done",
            group=group.id,
            task=group.task.id,
            published=published,
            success=sum(trajectory.success for trajectory in group.trajectories),
            size=group.size,
            oldest=group.oldest.step,
            newest=group.newest.step,
            retries=group.retries,
            seconds=round(time.monotonic() - started, 3),
        )

    def _count(self, group: Group, published: bool) -> None:
        counters = self.counters
        counters.completed += published
        counters.duplicates += not published
        counters.episodes += group.size
        counters.turns += sum(len(trajectory.turns) for trajectory in group.trajectories)
        counters.response_tokens += int(
            sum(trajectory.metrics.get("episode_response_tokens", 0.0) for trajectory in group.trajectories)
        )

    async def _renew_loop(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_ttl_s / RENEWALS_PER_TTL)
            renewing = [(task, active) for task, active in self._playing.items() if not task.done()]
            renewals = await asyncio.gather(*(self._streams.renew(active.lease) for _, active in renewing))
            for (task, active), renewed in zip(renewing, renewals, strict=True):
                # If a group was published or returned to the queue during the request, it has no lease, but it is not
                # lost.
                if not (renewed or task.done() or active.finishing):
                    self.counters.lost += 1
                    self._log.warning("lease_lost", group=active.lease.task.group_id)
                    task.cancel()

    async def _report_loop(self, stop: asyncio.Event) -> None:
        """Log the counters and touch the heartbeat file at regular intervals. Set `stop` if the stop file exists."""
        settings = self._settings
        while True:
            await asyncio.sleep(settings.report_every_s)
            self._log.info("working", worker=self.name, playing=self.playing, **self._log_fields())
            if settings.heartbeat_file is not None:
                settings.heartbeat_file.touch()
            if settings.stop_file is not None and settings.stop_file.exists() and not stop.is_set():
                self._log.info("stopping", worker=self.name, reason=f"{settings.stop_file} exists")
                stop.set()

    async def _drain(self) -> None:
        """Wait up to `drain_s` for the current groups. Then put unfinished groups back into the queue.

        The deliveries of these groups do not count towards `max_deliveries`.
        """
        if self._playing:
            self._log.info("draining", groups=len(self._playing), seconds=self._settings.drain_s)
            await asyncio.wait(set(self._playing), timeout=self._settings.drain_s)
        unfinished = [(task, active) for task, active in self._playing.items() if not task.done()]
        await _cancel(task for task, _ in unfinished)
        for task, active in unfinished:
            if task.cancelled():
                self.counters.released += 1
                await self._streams.release(active.lease, counted=False)
        self._remove_finished()

    def _log_fields(self) -> dict[str, float]:
        counters = self.counters
        seconds = max(time.monotonic() - counters.started, 1e-9)
        return {
            "groups": counters.completed,
            "duplicates": counters.duplicates,
            "failed": counters.failed,
            "lost": counters.lost,
            "released": counters.released,
            "episodes": counters.episodes,
            "turns": counters.turns,
            "turns_per_s": round(counters.turns / seconds, 1),
            "response_tokens_per_s": round(counters.response_tokens / seconds, 1),
        }


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    stopped = list(tasks)
    for task in stopped:
        task.cancel()
    await asyncio.gather(*stopped, return_exceptions=True)
