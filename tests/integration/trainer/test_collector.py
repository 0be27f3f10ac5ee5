"""The collector with a real broker: capacity, filters, staleness, crashes and dead letters."""

import asyncio
from dataclasses import astuple

import msgspec
import pytest
from redis import Redis

from arlarena.proto.streams.queue import Streams
from arlarena.proto.task_order import TaskOrder
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import (
    Group,
    PolicyVersion,
    Trajectory,
    Turn,
    VersionSpan,
    pack_floats,
    pack_ids,
)
from arlarena.trainer.collector import Collector, Interrupted, RunError
from arlarena.trainer.objectives import recipe
from arlarena.trainer.settings import TrainerSettings
from arlarena.trainer.state.checkpoint import TrainerState
from arlarena.trainer.state.ledger import OUTCOMES

NOW = PolicyVersion("life", 0, "d0")


def played(task, wins=1, version=NOW):
    def turn(won):
        return Turn(
            pack_ids([3, 4]),
            pack_ids([5, 2]),
            pack_floats([-0.1, -0.1]),
            bytes([1, 1]),
            (VersionSpan(0, 2, version),),
            10.9 if won else -0.1,
            "s",
            "s",
            True,
            True,
            "stop",
        )

    members = tuple(
        Trajectory(f"{task.group_id}-{i}", 0, (turn(i < wins),), i < wins, i >= wins, float(i < wins), i < wins)
        for i in range(task.size)
    )
    return Group(task.group_id, task.task, task.size, members, task.sampling, version, version)


class Worker:
    """Plays every task. `outcome(index)` returns the number of successful members, a group, or an exception."""

    def __init__(self, streams, outcome=lambda index: 1):
        self.streams, self.outcome, self.seen = streams, outcome, []

    async def serve(self):
        while True:
            lease = await self.streams.lease(consumer="w", block_s=0.2)
            if lease is None:
                continue
            index = int(lease.task.group_id[1:])
            self.seen.append(index)
            wins = self.outcome(index)
            if isinstance(wins, Exception):
                await self.streams.fail(lease, str(wins))
            elif isinstance(wins, Group):
                await self.streams.complete(lease, wins)
            else:
                await self.streams.complete(lease, played(lease.task, wins))


@pytest.fixture
async def streams(redis_url, run_name):
    async with await Streams.connect(redis_url, run_name, retry_delay_s=0.05, max_deliveries=2) as connected:
        yield connected


@pytest.fixture
async def start(streams):
    running = []

    def go(worker):
        running.append(asyncio.create_task(worker.serve()))
        return worker

    yield go
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def new_collector(streams, state=None, method=None, **changes):
    settings = TrainerSettings(**{"groups_per_step": 3, "group_size": 2, "minibatch_groups": 1, "steps": 5} | changes)
    state = state or TrainerState(versions={"d0": 0})
    order = TaskOrder("train", None, 7, settings.train_index_start)
    return Collector(streams, settings, method or recipe("sampo"), state, "sokoban", order, 99, Logger("test", "error"))


async def test_a_batch_has_useful_groups_and_each_is_settled_once(streams, start):
    worker = start(Worker(streams, lambda index: index % 2))  # each second group is uniform
    collector = new_collector(streams)
    collected = await collector.batch()
    assert [group.id for group in collected.selected.batch] == ["g000001", "g000003", "g000005"]
    assert sorted(group.id for group in collected.selected.filtered) == ["g000000", "g000002", "g000004"]
    collector.settle(collected)
    assert collector.state.ledger.counts() == dict.fromkeys(OUTCOMES, 0) | {"trained": 3, "filtered": 3}
    assert collector.state.environment_steps == 6 * 2
    await collector.acknowledge()
    assert sorted(set(worker.seen)) == sorted(worker.seen)


async def test_open_groups_never_exceed_the_capacity(streams):
    collector = new_collector(streams, staleness=1)
    await collector.top_up()
    await collector.top_up()
    depth = await streams.depth()
    assert depth.tasks_queued == 6 == len(collector.state.ledger.open)


async def test_the_number_of_offered_groups_is_limited_and_backfilled_groups_are_counted(streams, start):
    start(Worker(streams, lambda index: 2))  # all members solve all tasks
    collector = new_collector(streams)
    collected = await collector.batch()
    assert (collected.selected.kept, collected.selected.backfilled, len(collected.selected.filtered)) == (0, 3, 6)
    without = new_collector(streams, state=collector.state, method=recipe("sampo", backfill=False))
    collector.settle(collected)
    assert (await without.batch()).selected.batch == []


async def test_a_group_of_unknown_weights_is_discarded_and_its_task_issued_again(streams, start):
    lost, plays = PolicyVersion("life", 0, "gone"), []

    class Forgetful(Worker):
        """Plays the tasks 0 and 1 with unknown weights when it gets them for the first time."""

        async def serve(self):
            while True:
                if (lease := await streams.lease(consumer="w", block_s=0.2)) is not None:
                    first = lease.task.group_id not in plays
                    plays.append(lease.task.group_id)
                    version = lost if first and lease.task.group_id < "g000002" else NOW
                    await streams.complete(lease, played(lease.task, 1, version))

    collector = new_collector(streams, staleness=0)
    start(Forgetful(streams))
    collected = await collector.batch()
    assert sorted(group.id for group in collected.seen) == ["g000000", "g000001", "g000002"]
    assert collected.stale == []
    assert sorted(plays) == ["g000000", "g000000", "g000001", "g000001", "g000002"]
    collector.settle(collected)
    assert collector.state.ledger.counts()["trained"] == 3


async def test_a_sampler_with_unknown_weights_ends_the_run(streams, start):
    strange = PolicyVersion("other", 3, "gone")
    collector = new_collector(streams, max_unusable_in_a_row=4)
    start(Worker(streams, lambda index: played(collector._task(index), 1, strange)))
    with pytest.raises(RunError, match=r"10 groups in a row .* weights that this run does not know.*other:3:gone"):
        await collector.batch()


async def test_a_group_of_too_old_members_is_settled_as_stale(streams, start):
    collector = new_collector(streams, state=TrainerState(step=5, versions={"d0": 5, "old": 3}))
    start(
        Worker(
            streams,
            lambda index: played(collector._task(index), 1, PolicyVersion("life", 3, "old")) if index < 2 else 1,
        )
    )
    collected = await collector.batch()
    assert [group.id for group in collected.stale] == ["g000000", "g000001"]
    assert collector.state.environment_steps == 0
    collector.settle(collected)
    assert collector.state.ledger.counts()["stale"] == 2
    assert collector.state.environment_steps == 5 * 2


async def test_a_sampler_that_never_updates_its_weights_ends_the_run(streams, start):
    collector = new_collector(streams, state=TrainerState(step=5, versions={"d0": 0}), max_unusable_in_a_row=2)
    start(Worker(streams))
    with pytest.raises(
        RunError, match=r"8 groups in a row .* sampled by weights of step 0, more than 1 step behind step 5"
    ):
        await collector.batch()


async def test_groups_without_turns_end_the_run_with_the_reason(streams, start):
    collector = new_collector(streams, max_unusable_in_a_row=3)

    def outcome(index):
        group = played(collector._task(index))
        members = tuple(
            msgspec.structs.replace(one, turns=(), fault="a prompt of 900 tokens leaves no room in a context of 512")
            for one in group.trajectories
        )
        return msgspec.structs.replace(group, trajectories=members)

    start(Worker(streams, outcome))
    with pytest.raises(
        RunError, match=r"3 groups in a row .* a prompt of 900 tokens .* context of 512: either give the policy"
    ):
        await collector.batch()
    assert collector.state.ledger.counts()["empty"] == 3


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda turn: {"reward": float("nan")}, "reward"),
        (lambda turn: {"response_ids": pack_ids([5, 4_000])}, "4000"),
        (lambda turn: {"logprobs": pack_floats([-0.1, float("-inf")])}, "log-prob"),
        (lambda turn: {"spans": (VersionSpan(0, 1, NOW),)}, "span"),
    ],
)
async def test_an_invalid_message_becomes_a_dead_letter_and_the_run_continues(streams, start, damage, reason):
    collector = new_collector(streams)

    def outcome(index):
        group = played(collector._task(index))
        if index != 1:
            return group
        first = group.trajectories[0]
        turn = msgspec.structs.replace(first.turns[0], **damage(first.turns[0]))
        corrupted = msgspec.structs.replace(first, turns=(turn,))
        return msgspec.structs.replace(group, trajectories=(corrupted, *group.trajectories[1:]))

    start(Worker(streams, outcome))
    collected = await collector.batch()
    collector.settle(collected)
    assert collector.state.ledger.lineage["g000001"][0] == "dead"
    assert collector.state.ledger.counts()["trained"] == 3
    (letter,) = await streams.dead_letters()
    assert letter.group_id == "g000001"
    assert reason in letter.reason
    await collector.acknowledge()
    assert not await streams.outstanding() & collector.state.ledger.lineage.keys()


async def test_a_crash_before_a_checkpoint_loses_and_duplicates_no_group(streams, start, redis_url, run_name):
    checkpoint = TrainerState(versions={"d0": 0})
    checkpoint.ledger.issue(2)  # the checkpoint has two open groups; the first trainer then issues more
    first = new_collector(streams)
    worker = start(Worker(streams))
    for _ in range(3):
        first.settle(await first.batch())  # these steps are lost: no checkpoint is saved
    issued = first.state.ledger.next_index
    assert issued > 10

    async with await Streams.connect(redis_url, run_name) as again:
        second = new_collector(again, state=TrainerState.from_json(checkpoint.to_json()))
        await second.top_up()
        await second.resume()
        # The first trainer issued more tasks than the capacity allows now. These tasks are withdrawn and issued again
        # later.
        assert second.state.ledger.next_index == 6
        assert await again.outstanding() <= second.state.ledger.open.keys()
        for _ in range(4):
            second.settle(await second.batch())
        lineage = second.state.ledger.lineage
        assert set(lineage) == {f"g{index:06d}" for index in range(12)}
        assert worker.seen.count(5) == 1
        assert worker.seen.count(8) == 2


async def test_a_covered_entry_is_acknowledged_and_not_used_again(streams, start, redis_url, run_name):
    first = new_collector(streams)
    start(Worker(streams))
    first.settle(await first.batch())
    saved = first.state.to_json()  # the checkpoint is durable, but the trainer dies before the acknowledgement
    async with await Streams.connect(redis_url, run_name) as again:
        second = new_collector(again, state=TrainerState.from_json(saved))
        await second.resume()
        collected = await second.batch()
        assert not {group.id for group in collected.seen} & set(saved["ledger"]["lineage"])
        second.settle(collected)
        await second.acknowledge()
    async with await Streams.connect(redis_url, run_name) as third:
        left = await third.collect_pending(consumer="trainer")
        assert not {entry.group_id for entry in left} & set(second.state.ledger.lineage)


async def test_outstanding_tasks_are_issued_again_if_the_broker_lost_all_data(streams, start):
    collector = new_collector(streams, reissue_after_s=0.3)
    await collector.top_up()
    await streams.reset()
    assert (await streams.depth()).tasks_queued == 0
    start(Worker(streams))
    collected = await collector.batch()
    assert len(collected.selected.batch) == 3


async def test_dead_letters_free_their_slots(streams, start):
    start(Worker(streams, lambda index: 1 if index >= 4 else RuntimeError("the environment is down")))
    collector = new_collector(streams, max_unusable_in_a_row=5)
    async with asyncio.timeout(30):  # the second failure of a task may come after the first batch is full
        while collector.state.ledger.counts()["dead"] < 4:
            collector.settle(await collector.batch())
    assert (await streams.depth()).dead == 4


async def test_too_many_dead_groups_in_a_row_end_the_run_with_the_reason(streams, start):
    start(Worker(streams, lambda index: RuntimeError("the environment is down")))
    with pytest.raises(
        RunError, match=r"4 groups in a row could not be used; reason of the last: .*environment is down"
    ) as ended:
        await new_collector(streams, max_unusable_in_a_row=4).batch()
    assert not ended.value.permanent  # the environment may recover


async def test_permanently_unusable_groups_end_the_run_permanently(streams, start):
    collector = new_collector(streams, max_unusable_in_a_row=1)
    start(Worker(streams, lambda index: msgspec.structs.replace(played(collector._task(index)), size=7)))
    with pytest.raises(
        RunError, match=r"1 group in a row could not be used; reason of the last: its size is 7"
    ) as ended:
        await collector.batch()
    assert ended.value.permanent


async def test_progress_shows_groups_and_episodes(streams, start):
    seen = []
    collector = new_collector(streams)
    collector.on_progress = lambda so_far: seen.append(astuple(so_far))
    start(Worker(streams, lambda index: index % 2))  # each second group is uniform
    await collector.batch()
    assert seen[0] == (0, 3, 0, 0, 0)
    assert seen == sorted(seen)
    # Before the last group, two of the five groups passed the filter. Each group has two episodes.
    assert seen[-1][:4] == (2, 3, 10, 3)
    assert seen[-1][4] in (0, 3)  # unsolved: all three dropped groups, or none


async def test_no_groups_for_no_data_timeout_s_end_the_run(streams):
    with pytest.raises(RunError, match="no group arrived for 1 s, but 6 groups should arrive"):
        await new_collector(streams, no_data_timeout_s=1.0, reissue_after_s=0.5).batch()


async def test_a_signal_ends_the_wait(streams):
    collector = new_collector(streams)

    def guard():
        raise Interrupted("asked to stop")

    collector.guard = guard
    with pytest.raises(Interrupted):
        await collector.batch()


async def test_an_invalid_group_on_a_full_broker_is_copied_to_the_dead_letters_later(broker, run_name):
    """A full broker refuses the dead letter of an invalid group. The trainer tries again when there is memory."""
    async with await Streams.connect(broker.url, run_name) as streams:
        collector = new_collector(streams)

        def outcome(index):
            group = played(collector._task(index))
            return msgspec.structs.replace(group, size=7) if index == 1 else group

        playing = asyncio.create_task(Worker(streams, outcome).serve())
        await collector.top_up()
        while (await streams.depth()).groups_waiting < 6:
            await asyncio.sleep(0.01)
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        with Redis.from_url(broker.url) as redis:
            redis.config_set("maxmemory", 1)
            await collector._wait_for_groups(0)
            assert collector.broker_full
            assert "g000001" in collector.state.ledger.open
            assert len(collector.waiting) == 5
            redis.config_set("maxmemory", 0)
        await collector._wait_for_groups(0)
        assert collector.state.ledger.lineage["g000001"][0] == "dead"


@pytest.mark.parametrize(("staleness", "out"), [(0, 0), (1, 3)])
async def test_a_batch_that_the_filter_leaves_incomplete_issues_no_extra_tasks(streams, start, staleness, out):
    """With staleness 0 no task is issued before the step, because its group would be one step too old."""
    start(Worker(streams, lambda index: index % 2))
    collector = new_collector(streams, method=recipe("sampo", max_tries=1, backfill=False), staleness=staleness)
    collected = await collector.batch()
    assert len(collected.selected.batch) < 3
    judged = len(collected.selected.batch) + len(collected.selected.filtered)
    assert len(collector.state.ledger.open) - judged == out
