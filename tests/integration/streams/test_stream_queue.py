"""The states of a task and a group without failures."""

import asyncio
import time

import pytest

from arlarena.proto.streams.queue import DeadLetter, Depth, Streams


async def test_issue_lease_complete_collect_acknowledge(connect, make_tasks, make_group) -> None:
    streams = await connect()
    assert await streams.depth() == Depth(0, 0, 0, 0, 0)
    assert await streams.issue(make_tasks(3)) == 3
    lease = await streams.lease(consumer="w", block_s=0)
    assert lease.task == make_tasks(1)[0]
    assert lease.deliveries == 1
    assert await streams.depth() == Depth(2, 1, 0, 0, 0)
    group = make_group(lease.task)
    assert await streams.complete(lease, group)
    assert await streams.depth() == Depth(2, 0, 1, 0, 0)
    (entry,) = await streams.collect(consumer="t", count=10, block_s=1)
    assert entry.item == group
    assert await streams.depth() == Depth(2, 0, 0, 1, 0)
    await streams.acknowledge({entry.stream_id: entry.group_id})
    assert await streams.depth() == Depth(2, 0, 0, 0, 0)
    assert await streams.collect_pending(consumer="t") == []
    await streams.acknowledge({entry.stream_id: entry.group_id, "1-1": "unknown"})


async def test_waits_on_an_empty_run_end_after_block_s(connect) -> None:
    streams = await connect(timeout_s=0.4)
    for block_s in (0.0, 0.9):
        started = time.monotonic()
        assert await streams.lease(consumer="w", block_s=block_s) is None
        assert await streams.collect(consumer="t", count=1, block_s=block_s) == []
        assert 2 * block_s <= time.monotonic() - started < 2 * block_s + 1.0
    assert await streams.issue([]) == 0
    await streams.acknowledge({})


async def test_a_wait_longer_than_the_socket_timeout_is_no_error(connect, make_tasks) -> None:
    waiting, issuing = await connect(timeout_s=0.3), await connect()
    lease = asyncio.create_task(waiting.lease(consumer="w", block_s=20))
    done, _ = await asyncio.wait([lease], timeout=0.8)
    assert not done
    await issuing.issue(make_tasks(1))
    assert (await asyncio.wait_for(lease, 5)).task.group_id == "g0"


async def test_issue_is_idempotent_in_every_state_of_the_group(connect, make_tasks, make_group) -> None:
    streams = await connect(max_deliveries=1)
    tasks = make_tasks(4)
    assert await streams.issue([tasks[0], tasks[0]]) == 1
    assert await streams.issue(tasks) == 3
    assert await streams.issue(tasks) == 0  # queued
    leases = [await streams.lease(consumer="w", block_s=0) for _ in tasks]
    assert await streams.issue(tasks) == 0  # leased
    await streams.complete(leases[0], make_group(tasks[0]))
    await streams.fail(leases[1], "boom")
    assert await streams.issue(tasks) == 0  # published, dead
    entries = await streams.collect(consumer="t", count=10, block_s=0)
    await streams.acknowledge({entry.stream_id: entry.group_id for entry in entries})
    assert [entry.group_id for entry in entries] == ["g0", "g1"]
    assert await streams.issue(tasks) == 2  # acknowledged: their ids are free again
    assert await streams.depth() == Depth(2, 2, 0, 0, 1)


async def test_tasks_are_leased_in_order_and_groups_collected_in_order_of_completion(
    connect, make_tasks, make_group
) -> None:
    streams = await connect()
    await streams.issue(make_tasks(5))
    leases = [await streams.lease(consumer="w", block_s=0) for _ in range(5)]
    assert [lease.task.group_id for lease in leases] == ["g0", "g1", "g2", "g3", "g4"]
    for lease in reversed(leases):
        await streams.complete(lease, make_group(lease.task))
    first = await streams.collect(consumer="t", count=2, block_s=0)
    rest = await streams.collect(consumer="t", count=10, block_s=0)
    assert [entry.group_id for entry in first + rest] == ["g4", "g3", "g2", "g1", "g0"]


async def test_only_the_first_of_two_completions_is_published(connect, make_tasks, make_group) -> None:
    slow, fast = await connect(lease_ttl_s=0.1), await connect(lease_ttl_s=0.1)
    await slow.issue(make_tasks(1))
    lost = await slow.lease(consumer="slow", block_s=0)
    taken = await fast.lease(consumer="fast", block_s=5)
    assert taken.deliveries == 2
    outcomes = await asyncio.gather(
        slow.complete(lost, make_group(lost.task, "slow")), fast.complete(taken, make_group(taken.task, "fast"))
    )
    assert sorted(outcomes) == [False, True]
    entries = await slow.collect(consumer="t", count=10, block_s=0.2)
    assert [entry.item.worker for entry in entries] == ["slow" if outcomes[0] else "fast"]
    assert await slow.depth() == Depth(0, 0, 0, 1, 0)


async def test_a_worker_that_lost_its_lease_may_still_complete_first(connect, make_tasks, make_group) -> None:
    streams = await connect(lease_ttl_s=0.1)
    await streams.issue(make_tasks(1))
    lost = await streams.lease(consumer="slow", block_s=0)
    taken = await streams.lease(consumer="fast", block_s=5)
    assert await streams.complete(lost, make_group(lost.task, "slow"))
    assert not await streams.renew(taken)
    assert not await streams.complete(taken, make_group(taken.task, "fast"))
    assert await streams.depth() == Depth(0, 0, 1, 0, 0)


async def test_completing_another_group_than_the_leased_is_an_error(connect, make_tasks, make_group) -> None:
    streams = await connect()
    await streams.issue(make_tasks(2))
    lease = await streams.lease(consumer="w", block_s=0)
    with pytest.raises(ValueError, match="'g0', not 'g1'"):
        await streams.complete(lease, make_group(make_tasks(2)[1]))
    assert await streams.depth() == Depth(1, 1, 0, 0, 0)


async def test_runs_on_one_broker_do_not_see_each_other(connect, redis_url, run_name, make_tasks) -> None:
    here = await connect()
    await here.issue(make_tasks(2))
    async with await Streams.connect(redis_url, run_name + "-other") as there:
        assert await there.lease(consumer="w", block_s=0) is None
        assert await there.issue(make_tasks(2)) == 2
        await there.reset()
        assert await there.depth() == Depth(0, 0, 0, 0, 0)
    assert await here.depth() == Depth(2, 0, 0, 0, 0)


async def test_after_a_reset_ids_are_free_and_old_workers_publish_nothing(connect, make_tasks, make_group) -> None:
    trainer, worker = await connect(), await connect()
    await trainer.issue(make_tasks(3))
    old = await worker.lease(consumer="w", block_s=0)
    done = await worker.lease(consumer="w", block_s=0)
    await worker.complete(done, make_group(done.task))
    waiting = asyncio.create_task(worker.lease(consumer="w2", block_s=20))
    assert (await waiting).task.group_id == "g2"
    await trainer.reset()
    assert await trainer.depth() == Depth(0, 0, 0, 0, 0)
    assert await trainer.issue(make_tasks(3)) == 3
    assert not await worker.renew(old)
    assert not await worker.complete(old, make_group(old.task, "from the old run"))
    assert await trainer.depth() == Depth(3, 0, 0, 0, 0)
    new = await worker.lease(consumer="w", block_s=1)
    assert await worker.complete(new, make_group(new.task, "from the new run"))
    (entry,) = await trainer.collect(consumer="t", count=5, block_s=1)
    assert entry.item.worker == "from the new run"


async def test_a_reset_ends_blocking_reads(connect, make_tasks) -> None:
    trainer, worker = await connect(), await connect()
    waiting = asyncio.create_task(worker.lease(consumer="w", block_s=20))
    await asyncio.wait([waiting], timeout=0.2)
    await trainer.reset()
    await trainer.issue(make_tasks(1))
    assert (await asyncio.wait_for(waiting, 5)).task.group_id == "g0"


async def test_many_waiting_readers_share_the_work(connect, make_tasks) -> None:
    streams = await connect()
    waiting = [asyncio.create_task(streams.lease(consumer="w", block_s=20)) for _ in range(64)]
    await asyncio.wait(waiting, timeout=0.1)
    await streams.issue(make_tasks(64))
    leases = await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert {lease.task.group_id for lease in leases} == {f"g{i}" for i in range(64)}


async def test_entries_show_their_group_id(connect, make_tasks, make_group) -> None:
    streams = await connect(max_deliveries=1)
    await streams.issue(make_tasks(2))
    good, bad = [await streams.lease(consumer="w", block_s=0) for _ in range(2)]
    await streams.complete(good, make_group(good.task))
    await streams.fail(bad, "environment at http://e is gone")
    entries = await streams.collect(consumer="t", count=10, block_s=0)
    assert [entry.group_id for entry in entries] == ["g0", "g1"]
    assert entries[1].item == DeadLetter("g1", "environment at http://e is gone", 1)
