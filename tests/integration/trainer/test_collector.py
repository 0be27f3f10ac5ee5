"""The trainer's side of the queue, on a real broker: capacity, filters, staleness, crashes and dead letters."""

import asyncio

import pytest

from arlarena.proto.stream import Streams
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import (
    Group,
    PolicyVersion,
    Trajectory,
    Turn,
    VersionSpan,
    pack_floats,
    pack_ids,
    pack_mask,
)
from arlarena.trainer.checkpoint import TrainerState
from arlarena.trainer.collector import Collector, Interrupted, RunError
from arlarena.trainer.objectives import recipe
from arlarena.trainer.settings import TrainerSettings

NOW = PolicyVersion("life", 0, "d0")


def played(task, wins=1, version=NOW):
    def turn(won):
        return Turn(
            pack_ids([3, 4]),
            pack_ids([5, 2]),
            pack_floats([-0.1, -0.1]),
            pack_mask([1, 1]),
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
    """Plays every task as `outcome(index)` says: how many of its members win, or an exception to fail with."""

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


def collector(streams, state=None, method=None, **changes):
    settings = TrainerSettings(groups_per_step=3, group_size=2, steps=5, **changes)
    state = state or TrainerState(versions={"d0": 0})
    return Collector(streams, settings, method or recipe("sampo"), state, "sokoban", 7, Logger("test", "error"))


async def test_it_fills_a_batch_of_useful_groups_and_settles_each_once(streams, start):
    worker = start(Worker(streams, lambda index: index % 2))  # every other group is uniform
    mine = collector(streams)
    collected = await mine.batch()
    assert [group.id for group in collected.selected.batch] == ["g000001", "g000003", "g000005"]
    assert sorted(group.id for group in collected.selected.filtered) == ["g000000", "g000002", "g000004"]
    mine.settle(collected)
    assert mine.state.ledger.counts() == {"trained": 3, "filtered": 3, "stale": 0, "dead": 0, "unused": 0}
    assert mine.state.environment_steps == 6 * 2
    await mine.acknowledge()
    assert sorted(set(worker.seen)) == sorted(worker.seen)


async def test_what_is_out_never_exceeds_the_capacity(streams):
    mine = collector(streams, staleness=1)
    await mine.top_up()
    await mine.top_up()
    depth = await streams.depth()
    assert depth.tasks_queued == 6 == len(mine.state.ledger.open)


async def test_tries_are_bounded_and_backfill_is_counted(streams, start):
    start(Worker(streams, lambda index: 2))  # everything is solved by everybody
    mine = collector(streams)
    collected = await mine.batch()
    assert (collected.selected.kept, collected.selected.backfilled, len(collected.selected.filtered)) == (0, 3, 6)
    without = collector(streams, state=mine.state, method=recipe("sampo", backfill=False))
    mine.settle(collected)
    assert (await without.batch()).selected.batch == []


async def test_samples_of_weights_that_nobody_knows_are_stale(streams, start):
    lost = PolicyVersion("life", 0, "gone")
    tasks = {}

    def outcome(index):
        if index < 2:
            return played(tasks[index], 1, lost)
        return 1

    mine = collector(streams)
    tasks.update({index: mine._task(index) for index in range(2)})
    start(Worker(streams, outcome))
    collected = await mine.batch()
    assert collected.stale == 2
    assert {group for group, (end, _) in mine.state.ledger.lineage.items() if end == "stale"} == {"g000000", "g000001"}


async def test_a_trainer_that_dies_before_its_checkpoint_loses_and_doubles_nothing(streams, start, redis_url, run_name):
    checkpoint = TrainerState(versions={"d0": 0})
    checkpoint.ledger.issue(2)  # the checkpoint knows of two; the dead trainer had issued and received more
    first = collector(streams)
    start(Worker(streams))
    collected = await first.batch()
    first.settle(collected)  # trained on, never checkpointed, never acknowledged
    issued = first.state.ledger.next_index
    assert issued > 2

    async with await Streams.connect(redis_url, run_name) as again:
        state = TrainerState.from_json(checkpoint.to_json())
        second = collector(again, state=state)
        await second.resume()
        for step in range(3):
            batch = await second.batch()
            second.settle(batch)
            second.state.step = step
        await second.acknowledge()
        lineage = second.state.ledger.lineage
        assert {group.id for group in collected.selected.batch} <= set(lineage)
        assert len(lineage) == 9
        assert second.state.ledger.next_index >= issued


async def test_an_entry_that_a_checkpoint_covers_is_acknowledged_and_not_used_again(
    streams, start, redis_url, run_name
):
    first = collector(streams)
    start(Worker(streams))
    first.settle(await first.batch())
    saved = first.state.to_json()  # the checkpoint is durable, the acknowledgement never happens
    async with await Streams.connect(redis_url, run_name) as again:
        second = collector(again, state=TrainerState.from_json(saved))
        await second.resume()
        collected = await second.batch()
        assert not {group.id for group in collected.seen} & set(saved["ledger"]["lineage"])
        second.settle(collected)
        await second.acknowledge()
    async with await Streams.connect(redis_url, run_name) as third:
        left = await third.collect_pending(consumer="trainer")
        assert not {entry.group_id for entry in left} & set(second.state.ledger.lineage)


async def test_a_broker_that_lost_everything_is_given_the_outstanding_tasks_again(streams, start):
    mine = collector(streams, reissue_after_s=0.3)
    await mine.top_up()
    await streams.reset()
    assert (await streams.depth()).tasks_queued == 0
    start(Worker(streams))
    collected = await mine.batch()
    assert len(collected.selected.batch) == 3


async def test_dead_letters_free_their_slots(streams, start):
    start(Worker(streams, lambda index: 1 if index >= 4 else RuntimeError("the environment is down")))
    mine = collector(streams, max_dead_in_a_row=5)
    collected = await mine.batch()
    mine.settle(collected)
    assert mine.state.ledger.counts()["dead"] == 4


async def test_too_many_dead_groups_in_a_row_end_the_run_with_the_reason(streams, start):
    start(Worker(streams, lambda index: RuntimeError("the environment is down")))
    with pytest.raises(RunError, match=r"4 groups in a row could not be played; the last: .*environment is down"):
        await collector(streams, max_dead_in_a_row=4).batch()


async def test_silence_ends_the_run_instead_of_waiting_for_ever(streams):
    with pytest.raises(RunError, match="no group arrived for 1 s with 6 outstanding"):
        await collector(streams, stall_s=1.0).batch()


async def test_a_signal_ends_the_wait(streams):
    mine = collector(streams)
    mine.interrupted = lambda: True
    with pytest.raises(Interrupted):
        await mine.batch()
