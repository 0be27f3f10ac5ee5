"""The trainer's calls with crashes, lost replies and invalid messages."""

import asyncio

import msgspec
import pytest
from redis.asyncio import Redis

from arlarena.proto.streams.queue import DeadLetter, Depth
from arlarena.proto.trajectory import encode


async def fill(streams, tasks, make_group) -> None:
    await streams.issue(tasks)
    for _ in tasks:
        lease = await streams.lease(consumer="w", block_s=1)
        assert await streams.complete(lease, make_group(lease.task))


@pytest.mark.parametrize("name", ["trainer", "another-name"])
async def test_after_a_crash_pending_entries_are_delivered_again_in_order(
    connect, make_tasks, make_group, name
) -> None:
    before = await connect()
    await fill(before, make_tasks(150), make_group)
    collected = await before.collect(consumer="trainer", count=140, block_s=1)
    await before.acknowledge({entry.stream_id: entry.group_id for entry in collected[:10]})

    after = await connect()
    pending = await after.collect_pending(consumer=name)
    assert pending == collected[10:]
    assert await after.collect_pending(consumer=name) == pending
    rest = await after.collect(consumer=name, count=500, block_s=1)
    assert [entry.group_id for entry in rest] == [f"g{i}" for i in range(140, 150)]
    await after.acknowledge({entry.stream_id: entry.group_id for entry in pending + rest})
    assert await after.depth() == Depth(0, 0, 0, 0, 0)
    assert await after.collect_pending(consumer=name) == []


async def test_collect_returns_pending_entries_first(connect, make_tasks, make_group) -> None:
    before = await connect()
    await fill(before, make_tasks(5), make_group)
    await before.collect(consumer="t", count=3, block_s=1)
    after = await connect()
    first = await after.collect(consumer="t", count=2, block_s=0)
    second = await after.collect(consumer="t", count=10, block_s=0)
    third = await after.collect(consumer="t", count=10, block_s=0)
    assert [entry.group_id for entry in first + second + third] == [f"g{i}" for i in range(5)]


async def test_dead_letters_are_pending_like_groups(connect, make_tasks) -> None:
    streams = await connect(max_deliveries=1)
    await streams.issue(make_tasks(1))
    await streams.fail(await streams.lease(consumer="w", block_s=0), "boom")
    collected = await streams.collect(consumer="t", count=1, block_s=0)
    assert await (await connect()).collect_pending(consumer="t") == collected


@pytest.mark.parametrize("newer", [False, True])
async def test_an_invalid_group_becomes_a_dead_letter(connect, redis_url, make_tasks, make_group, newer) -> None:
    streams = await connect()
    newer_group = msgspec.structs.replace(make_group(make_tasks(1)[0]), schema=99)
    raw = Redis.from_url(redis_url)
    await raw.xadd(streams.keys[1], {"id": "g0", "data": encode(newer_group) if newer else b"\x93\x01"})
    await raw.xadd(streams.keys[1], {"foreign": "entry"})
    await raw.aclose()
    await fill(streams, make_tasks(1, first=1), make_group)
    bad, foreign, good = await streams.collect(consumer="t", count=10, block_s=1)
    assert isinstance(bad.item, DeadLetter)
    assert ("schema 99" if newer else "not a group") in bad.item.reason
    assert isinstance(foreign.item, DeadLetter)
    assert foreign.group_id == f"unknown-{foreign.stream_id}"
    assert good.group_id == "g1"
    assert await streams.dead_letters() == [bad.item]
    # A second delivery after a crash adds no second letter, and `acknowledge` removes the entry.
    after = await connect()
    assert await after.collect_pending(consumer="t") == [bad, foreign, good]
    assert await after.dead_letters() == [bad.item]
    await after.acknowledge({entry.stream_id: entry.group_id for entry in (bad, foreign, good)})
    assert await after.depth() == Depth(0, 0, 0, 0, 1)


async def test_a_collect_with_a_lost_reply_loses_no_group(connect, proxy, make_tasks, make_group) -> None:
    streams = await connect()
    await fill(streams, make_tasks(4), make_group)
    trainer = await connect(proxy.url, timeout_s=2.0)
    first = await trainer.collect(consumer="t", count=1, block_s=0)
    proxy.lose_answer(b"XREADGROUP")
    entries = await trainer.collect(consumer="t", count=2, block_s=1)
    assert proxy.fired.is_set()
    while more := await trainer.collect(consumer="t", count=2, block_s=0):
        entries += more
    await trainer.acknowledge({})
    pending = await trainer.collect_pending(consumer="t")
    assert sorted(entry.group_id for entry in pending) == ["g0", "g1", "g2", "g3"]
    assert sorted(entry.group_id for entry in first + entries) == ["g0", "g1", "g2", "g3"]


async def test_a_cancelled_collect_loses_no_group(connect, proxy, make_tasks, make_group) -> None:
    streams = await connect()
    trainer = await connect(proxy.url, timeout_s=30.0)
    await fill(streams, make_tasks(2), make_group)
    assert len(await trainer.collect(consumer="t", count=1, block_s=0)) == 1
    proxy.lose_answer(b"XREADGROUP", then_break=False)
    collecting = asyncio.create_task(trainer.collect(consumer="t", count=1, block_s=10))
    await asyncio.wait_for(proxy.fired.wait(), 10)
    collecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await collecting
    assert [entry.group_id for entry in await trainer.collect(consumer="t", count=5, block_s=1)] == ["g1"]
    assert await trainer.collect(consumer="t", count=5, block_s=0) == []


async def test_an_entry_is_delivered_once_if_the_broker_loses_the_delivery(
    connect, redis_url, make_tasks, make_group
) -> None:
    streams = await connect()
    await fill(streams, make_tasks(2), make_group)
    first = await streams.collect(consumer="t", count=1, block_s=0)
    async with Redis.from_url(redis_url) as raw:
        await raw.xack(streams.keys[1], "trainer", first[0].stream_id)
        await raw.xgroup_setid(streams.keys[1], "trainer", "0")
    second = await streams.collect(consumer="t", count=5, block_s=1)
    assert [entry.group_id for entry in first + second] == ["g0", "g1"]
    assert await streams.collect_pending(consumer="t") == first + second
    await streams.acknowledge({entry.stream_id: entry.group_id for entry in first + second})
    assert await streams.depth() == Depth(0, 0, 0, 0, 0)


async def test_a_completion_with_a_lost_reply_succeeds(connect, proxy, make_tasks, make_group) -> None:
    streams = await connect()
    worker = await connect(proxy.url)
    await streams.issue(make_tasks(2))
    warm = await worker.lease(consumer="w", block_s=0)
    assert await worker.complete(warm, make_group(warm.task))
    lease = await worker.lease(consumer="w", block_s=0)
    proxy.lose_answer(b"EVALSHA")
    assert await worker.complete(lease, make_group(lease.task))
    assert proxy.fired.is_set()
    entries = await streams.collect(consumer="t", count=5, block_s=0)
    assert [entry.group_id for entry in entries] == ["g0", "g1"]


async def test_an_issue_with_a_lost_reply_queues_each_task_once(connect, proxy, make_tasks) -> None:
    streams = await connect(proxy.url)
    assert await streams.issue(make_tasks(1)) == 1
    proxy.lose_answer(b"EVALSHA")
    await streams.issue(make_tasks(3))
    assert proxy.fired.is_set()
    assert (await streams.depth()).tasks_queued == 3
