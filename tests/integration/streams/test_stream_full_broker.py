"""A broker at its `maxmemory` refuses calls that need memory without changes, and accepts all other calls."""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from redis.asyncio import Redis

from arlarena.proto.streams.queue import BrokerFull, DeadLetter, Depth, Streams
from arlarena.proto.trajectory import encode

# The memory in use varies with the buffers of the connections, by less than this.
MARGIN_BYTES = 150_000


class Memory:
    """Sets the broker's limit."""

    def __init__(self, raw: Redis) -> None:
        self.raw = raw

    async def fill(self) -> None:
        await self.raw.config_set("maxmemory", (await self.raw.info("memory"))["used_memory"] - MARGIN_BYTES)

    async def free(self) -> None:
        await self.raw.config_set("maxmemory", 0)


@pytest.fixture
async def memory(broker) -> AsyncIterator[Memory]:
    async with Redis.from_url(broker.url) as raw:
        await raw.config_set("appendfsync", "no")  # these tests do not need the disk
        yield Memory(raw)


@pytest.fixture
async def streams(broker, memory) -> AsyncIterator[Streams]:
    async with await Streams.connect(broker.url, "r", retry_delay_s=0.0, max_deliveries=2) as connected:
        yield connected


async def published(streams: Streams, tasks, make_group) -> dict[str, str]:
    """Publish and collect a group for each task."""
    await streams.issue(tasks)
    for _ in tasks:
        lease = await streams.lease(consumer="w", block_s=0)
        assert await streams.complete(lease, make_group(lease.task))
    entries = await streams.collect(consumer="t", count=len(tasks), block_s=0)
    return {entry.stream_id: entry.group_id for entry in entries}


async def test_a_full_broker_refuses_issue_without_changes(streams, memory, make_tasks) -> None:
    await streams.issue(make_tasks(1))
    await memory.fill()
    with pytest.raises(BrokerFull) as caught:
        await streams.issue(make_tasks(10))
    message = str(caught.value)
    assert message.startswith(
        f"the memory of Redis at {streams._link.url} is full: either raise its maxmemory, or lower"
    )
    assert await streams.outstanding() == {"g0"}
    # A queued task needs no write.
    assert await streams.issue(make_tasks(1)) == 0
    await memory.free()
    assert await streams.issue(make_tasks(10)) == 9


async def test_a_full_broker_refuses_complete_and_the_lease_stays(streams, memory, make_tasks, make_group) -> None:
    await streams.issue(make_tasks(1))
    lease = await streams.lease(consumer="w", block_s=0)
    await memory.fill()
    with pytest.raises(BrokerFull):
        await streams.complete(lease, make_group(lease.task))
    assert await streams.renew(lease)
    assert await streams.depth() == Depth(0, 1, 0, 0, 0)
    await memory.free()
    assert await streams.complete(lease, make_group(lease.task))
    assert await streams.depth() == Depth(0, 0, 1, 0, 0)


@pytest.mark.parametrize("call", ["acknowledge", "withdraw"])
async def test_acknowledge_and_withdraw_free_memory_of_a_full_broker(
    streams, memory, make_tasks, make_group, call
) -> None:
    entries = await published(streams, make_tasks(1500 if call == "acknowledge" else 1), make_group)
    await streams.issue(make_tasks(2000 if call == "withdraw" else 1, first=3000))
    played = await streams.lease(consumer="w", block_s=0)
    await memory.fill()
    with pytest.raises(BrokerFull):
        await streams.issue(make_tasks(1, first=2000))
    if call == "acknowledge":
        await streams.acknowledge(entries)
        assert await streams.outstanding() == {"g3000"}
    else:
        assert await streams.withdraw(f"g{i}" for i in range(3000, 5000)) == 2000
        assert not await streams.renew(played)
        assert not await streams.complete(played, make_group(played.task))
        assert await streams.outstanding() == {"g0"}
    # With the same limit, there is now memory for the refused calls.
    assert await streams.issue(make_tasks(1, first=2000)) == 1


async def test_a_full_broker_refuses_a_copy_to_the_dead_letters_and_the_entry_stays(
    streams, memory, make_tasks, make_group
) -> None:
    await streams.issue(make_tasks(1))
    lease = await streams.lease(consumer="w", block_s=0)
    await streams.complete(lease, make_group(lease.task))
    (entry,) = await streams.collect(consumer="t", count=1, block_s=0)
    await memory.fill()
    with pytest.raises(BrokerFull):
        await streams.copy_to_dead_letters(entry, "bad")
    assert await streams.depth() == Depth(0, 0, 0, 1, 0)
    await memory.free()
    await streams.copy_to_dead_letters(entry, "bad")
    assert await streams.dead_letters() == [DeadLetter("g0", "bad", 1)]


async def test_leases_work_on_a_full_broker(streams, memory, make_tasks) -> None:
    await streams.issue(make_tasks(3))
    await memory.fill()
    first, second, third = [await streams.lease(consumer="w", block_s=0) for _ in range(3)]
    assert await streams.renew(first)
    await streams.release(second, counted=False)
    await streams.fail(third, "boom")
    await streams.fail(first, "boom")
    again = {lease.task.group_id: lease for lease in [await streams.lease(consumer="w", block_s=1) for _ in range(3)]}
    assert {name: lease.deliveries for name, lease in again.items()} == {"g0": 2, "g1": 1, "g2": 2}
    # The last delivery also fails: the task becomes a dead letter.
    await streams.fail(again["g0"], "boom again")
    (entry,) = await streams.collect(consumer="t", count=5, block_s=0)
    assert entry.item == DeadLetter("g0", "boom again", 2)
    assert await streams.depth() == Depth(0, 2, 0, 1, 1)


async def test_an_expired_last_delivery_becomes_a_dead_letter_on_a_full_broker(broker, memory, make_tasks) -> None:
    async with await Streams.connect(broker.url, "r", lease_ttl_s=0.05, max_deliveries=1) as streams:
        await streams.issue(make_tasks(1))
        lost = await streams.lease(consumer="w", block_s=0)
        await memory.fill()
        assert await streams.lease(consumer="w", block_s=1) is None
        assert not await streams.renew(lost)
        (entry,) = await streams.collect(consumer="t", count=5, block_s=0)
        assert isinstance(entry.item, DeadLetter)


async def test_collect_connect_and_collect_pending_work_on_a_full_broker(
    broker, streams, memory, make_tasks, make_group
) -> None:
    entries = await published(streams, make_tasks(2), make_group)
    await streams.issue(make_tasks(1, first=2))
    lease = await streams.lease(consumer="w", block_s=0)
    await streams.complete(lease, make_group(lease.task))
    await memory.fill()
    async with await Streams.connect(broker.url, "r") as resumed:
        pending = await resumed.collect_pending(consumer="another name")
        assert {entry.stream_id: entry.group_id for entry in pending} == entries
        new = await resumed.collect(consumer="another name", count=5, block_s=0)
        assert [entry.group_id for entry in new] == ["g2"]
        assert await resumed.depth() == Depth(0, 0, 0, 3, 0)


async def test_connecting_to_a_new_run_on_a_full_broker_is_refused(broker, memory) -> None:
    await memory.fill()
    with pytest.raises(BrokerFull):
        await Streams.connect(broker.url, "new")
    await memory.free()
    await (await Streams.connect(broker.url, "new")).close()


async def test_an_invalid_group_on_a_full_broker_does_not_stop_the_trainer(
    streams, memory, make_tasks, make_group
) -> None:
    newer = encode(msgspec.structs.replace(make_group(make_tasks(1)[0]), schema=99))
    await memory.raw.xadd(streams.keys[1], {"id": "g0", "data": newer})
    await streams.issue(make_tasks(1, first=1))
    lease = await streams.lease(consumer="w", block_s=0)
    await streams.complete(lease, make_group(lease.task))
    await memory.fill()
    bad, good = await streams.collect(consumer="t", count=5, block_s=0)
    assert "schema 99" in bad.item.reason
    assert good.group_id == "g1"
    assert await streams.dead_letters() == []
    # The entry is still there, and can be copied when there is memory.
    await memory.free()
    await streams.copy_to_dead_letters(bad, bad.item.reason)
    assert await streams.dead_letters() == [bad.item]


async def test_a_call_waits_for_memory_for_full_timeout_s(broker, memory, make_tasks) -> None:
    async with await Streams.connect(broker.url, "r", full_timeout_s=20.0) as patient:
        await memory.fill()
        issuing = asyncio.create_task(patient.issue(make_tasks(2)))
        done, _ = await asyncio.wait([issuing], timeout=0.8)
        assert not done
        await memory.free()
        assert await asyncio.wait_for(issuing, 10) == 2
    async with await Streams.connect(broker.url, "r", full_timeout_s=0.5) as streams:
        await memory.fill()
        started = time.monotonic()
        with pytest.raises(BrokerFull):
            await streams.issue(make_tasks(1, first=5))
        assert 0.2 < time.monotonic() - started < 3.0
