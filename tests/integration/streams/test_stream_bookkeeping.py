"""`acknowledge` and `withdraw` free group ids, and the bookkeeping of the broker is bounded."""

import asyncio
from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from arlarena.proto.streams.lua_scripts import DEAD_LETTERS_KEPT
from arlarena.proto.streams.queue import DeadLetter, Depth, GroupEntry, Streams


def ids(entries: Sequence[GroupEntry]) -> dict[str, str]:
    return {entry.stream_id: entry.group_id for entry in entries}


async def publish(streams: Streams, make_group, count: int, worker: str = "w") -> None:
    for _ in range(count):
        lease = await streams.lease(consumer=worker, block_s=1)
        assert await streams.complete(lease, make_group(lease.task, worker))


async def fields(url: str, streams: Streams) -> list[int]:
    """The number of fields of the hashes `done`, `issued` and `reasons`."""
    async with Redis.from_url(url) as raw:
        return [await raw.hlen(key) for key in streams.keys[3:]]


async def test_bookkeeping_is_empty_after_a_thousand_acknowledged_groups(
    connect, redis_url, make_tasks, make_group
) -> None:
    streams = await connect(max_deliveries=2, retry_delay_s=0.0)
    tasks = make_tasks(1000)
    assert await streams.issue(tasks) == 1000
    for number in range(1000):
        lease = await streams.lease(consumer="w", block_s=1)
        if number % 100 == 0:
            await streams.fail(lease, "boom")
            lease = await streams.lease(consumer="w", block_s=1)
        if number % 200 == 0:
            await streams.fail(lease, "boom")
        else:
            assert await streams.complete(lease, make_group(lease.task))
    entries = await streams.collect(consumer="t", count=2000, block_s=0)
    assert sum(isinstance(entry.item, DeadLetter) for entry in entries) == 5
    assert await streams.outstanding() == {task.group_id for task in tasks}
    await streams.acknowledge(ids(entries))
    assert await fields(redis_url, streams) == [0, 0, 0]
    assert await streams.outstanding() == set()
    assert await streams.depth() == Depth(0, 0, 0, 0, 5)


async def test_outstanding_groups_are_queued_leased_or_published(connect, make_tasks, make_group) -> None:
    streams = await connect()
    await streams.issue(make_tasks(3))
    await publish(streams, make_group, 1)
    await streams.lease(consumer="w", block_s=0)
    assert await streams.outstanding() == {"g0", "g1", "g2"}
    await streams.acknowledge(ids(await streams.collect(consumer="t", count=5, block_s=0)))
    assert await streams.outstanding() == {"g1", "g2"}


async def test_an_acknowledged_group_can_be_issued_again_and_a_late_worker_publishes_nothing(
    connect, make_tasks, make_group
) -> None:
    streams = await connect(lease_ttl_s=0.1)
    await streams.issue(make_tasks(1))
    late = await streams.lease(consumer="late", block_s=0)
    first = await streams.lease(consumer="first", block_s=5)
    assert await streams.complete(first, make_group(first.task, "first"))
    await streams.acknowledge(ids(await streams.collect(consumer="t", count=5, block_s=0)))
    assert not await streams.complete(late, make_group(late.task, "late"))
    assert await streams.issue(make_tasks(1)) == 1
    assert not await streams.complete(late, make_group(late.task, "late"))
    assert not await streams.complete(first, make_group(first.task, "first"))
    again = await streams.lease(consumer="again", block_s=0)
    assert again.deliveries == 1
    assert await streams.complete(again, make_group(again.task, "again"))
    entries = await streams.collect(consumer="t", count=5, block_s=0)
    assert [entry.item.worker for entry in entries] == ["again"]


async def test_a_dead_group_can_be_issued_again(connect, make_tasks, make_group) -> None:
    streams = await connect(max_deliveries=1)
    await streams.issue(make_tasks(1))
    await streams.fail(await streams.lease(consumer="w", block_s=0), "boom")
    await streams.acknowledge(ids(await streams.collect(consumer="t", count=5, block_s=0)))
    assert await streams.issue(make_tasks(1)) == 1
    await publish(streams, make_group, 1)
    (entry,) = await streams.collect(consumer="t", count=5, block_s=0)
    assert entry.item.id == "g0"


async def test_a_repeated_acknowledgement_keeps_a_group_issued_again(connect, proxy, make_tasks, make_group) -> None:
    streams, trainer = await connect(), await connect(proxy.url, timeout_s=30.0)
    await streams.issue(make_tasks(2))
    await publish(streams, make_group, 2)
    first, second = await trainer.collect(consumer="t", count=2, block_s=0)
    await trainer.acknowledge(ids([first]))  # the broker caches the script
    proxy.lose_answer(b"EVALSHA", then_break=False)
    acknowledging = asyncio.create_task(trainer.acknowledge(ids([second])))
    await asyncio.wait_for(proxy.fired.wait(), 10)
    # The broker has executed it. The trainer, without a reply, is replaced by another one that issues again.
    assert await streams.outstanding() == set()
    assert await streams.issue(make_tasks(2)) == 2
    acknowledging.cancel()
    await asyncio.gather(acknowledging, return_exceptions=True)
    await streams.acknowledge(ids([first, second]))
    assert await streams.outstanding() == {"g0", "g1"}
    await publish(streams, make_group, 2, "anew")
    entries = await streams.collect(consumer="t", count=5, block_s=0)
    await streams.acknowledge(ids([first, second]))
    assert await streams.issue(make_tasks(2)) == 0
    assert [entry.item.worker for entry in entries] == ["anew", "anew"]


async def test_an_acknowledgement_with_a_lost_reply_is_retried(
    connect, proxy, redis_url, make_tasks, make_group
) -> None:
    trainer = await connect(proxy.url)
    await trainer.issue(make_tasks(2))
    await publish(trainer, make_group, 2)
    first, second = await trainer.collect(consumer="t", count=2, block_s=0)
    await trainer.acknowledge(ids([first]))
    proxy.lose_answer(b"EVALSHA")
    await trainer.acknowledge(ids([second]))
    assert proxy.fired.is_set()
    assert await fields(redis_url, trainer) == [0, 0, 0]
    assert await trainer.depth() == Depth(0, 0, 0, 0, 0)


async def test_withdrawn_groups_are_removed_and_their_workers_publish_nothing(
    connect, redis_url, make_tasks, make_group
) -> None:
    streams = await connect(max_deliveries=1)
    await streams.issue(make_tasks(5))
    await publish(streams, make_group, 1)
    played, failed, unreadable = [await streams.lease(consumer="w", block_s=0) for _ in range(3)]
    assert await streams.withdraw(["g0", "g1", "g2", "g3", "g4", "unknown"]) == 5
    assert await streams.withdraw(["g0", "g1"]) == 0
    assert await fields(redis_url, streams) == [0, 0, 0]
    assert not await streams.renew(played)
    assert not await streams.complete(played, make_group(played.task))
    await streams.fail(failed, "boom")
    await streams.release(unreadable)
    # Only the group that was published before is left.
    assert await streams.depth() == Depth(0, 0, 1, 0, 0)
    assert await streams.lease(consumer="w", block_s=0) is None
    entries = await streams.collect(consumer="t", count=5, block_s=0)
    assert [entry.group_id for entry in entries] == ["g0"]


async def test_acknowledging_a_withdrawn_group_keeps_its_new_task(connect, make_tasks, make_group) -> None:
    streams = await connect()
    await streams.issue(make_tasks(1))
    await publish(streams, make_group, 1, "before")
    await streams.withdraw(["g0"])
    assert await streams.issue(make_tasks(1)) == 1
    old = await streams.collect(consumer="t", count=5, block_s=0)
    assert [entry.item.worker for entry in old] == ["before"]
    await streams.acknowledge(ids(old))
    assert await streams.outstanding() == {"g0"}
    await publish(streams, make_group, 1, "after")
    new = await streams.collect(consumer="t", count=5, block_s=0)
    assert [entry.item.worker for entry in new] == ["after"]
    await streams.acknowledge(ids(new))
    assert await streams.outstanding() == set()


async def test_many_groups_are_withdrawn_in_several_calls(connect, make_tasks) -> None:
    streams = await connect()
    await streams.issue(make_tasks(1201))
    assert await streams.withdraw(task.group_id for task in make_tasks(1200)) == 1200
    assert await streams.depth() == Depth(1, 0, 0, 0, 0)
    assert await streams.outstanding() == {"g1200"}


async def test_an_unusable_group_is_copied_once_and_stays_pending(connect, redis_url, make_tasks, make_group) -> None:
    streams = await connect()
    await streams.issue(make_tasks(1))
    await publish(streams, make_group, 1)
    (entry,) = await streams.collect(consumer="t", count=5, block_s=0)
    for _ in range(2):
        await streams.copy_to_dead_letters(entry, "token 7 is not in the vocabulary")
    assert await streams.dead_letters() == [DeadLetter("g0", "token 7 is not in the vocabulary", 1)]
    async with Redis.from_url(redis_url) as raw:
        ((_, published),) = await raw.xrange(streams.keys[1])
        ((_, letter),) = await raw.xrange(streams.keys[2])
    assert letter[b"data"] == published[b"data"]
    assert await streams.collect_pending(consumer="t") == [entry]
    await streams.acknowledge(ids([entry]))
    await streams.copy_to_dead_letters(entry, "again")
    assert await streams.depth() == Depth(0, 0, 0, 0, 1)
    assert await fields(redis_url, streams) == [0, 0, 0]


async def test_copying_the_notice_of_a_dead_letter_adds_no_second_letter(connect, make_tasks) -> None:
    streams = await connect(max_deliveries=1)
    await streams.issue(make_tasks(1))
    await streams.fail(await streams.lease(consumer="w", block_s=0), "boom")
    (entry,) = await streams.collect(consumer="t", count=5, block_s=0)
    await streams.copy_to_dead_letters(entry, "unusable")
    assert await streams.dead_letters() == [DeadLetter("g0", "boom", 1)]


async def test_the_oldest_dead_letters_are_removed_first(connect, redis_url, make_tasks, make_group) -> None:
    streams = await connect()
    total = DEAD_LETTERS_KEPT + 20
    await streams.issue(make_tasks(total))
    await publish(streams, make_group, total)
    entries = await streams.collect(consumer="t", count=total, block_s=0)
    for entry in entries:
        await streams.copy_to_dead_letters(entry, "bad")
    letters = await streams.dead_letters(count=2 * total)
    assert [letter.group_id for letter in letters] == [f"g{i}" for i in reversed(range(20, total))]


@pytest.mark.parametrize("call", ["copy_to_dead_letters", "acknowledge"])
async def test_dead_letters_older_than_a_week_are_removed(connect, redis_url, make_tasks, make_group, call) -> None:
    streams = await connect()
    await streams.issue(make_tasks(1))
    await publish(streams, make_group, 1)
    async with Redis.from_url(redis_url) as raw:
        seconds, _ = await raw.time()
        for age_days, name in ((8, "old"), (6, "recent")):
            stamp = (seconds - age_days * 24 * 3600) * 1000
            await raw.xadd(streams.keys[2], {"id": name, "reason": "r"}, id=f"{stamp}-0")
    entries = await streams.collect(consumer="t", count=5, block_s=0)
    if call == "copy_to_dead_letters":
        await streams.copy_to_dead_letters(entries[0], "bad")
    else:
        await streams.acknowledge(ids(entries))
    kept = [letter.group_id for letter in await streams.dead_letters()]
    assert kept == (["g0", "recent"] if call == "copy_to_dead_letters" else ["recent"])


async def test_pending_entries_of_a_dead_consumer_are_claimed_while_the_trainer_runs(
    connect, redis_url, make_tasks, make_group
) -> None:
    trainer = await connect()
    await trainer.issue(make_tasks(4))
    await publish(trainer, make_group, 4)
    held = await trainer.collect(consumer="t", count=1, block_s=0)
    async with Redis.from_url(redis_url) as raw:
        taken = await raw.xreadgroup("trainer", "dead trainer", {trainer.keys[1]: ">"}, count=2)
    assert len(taken[0][1]) == 2
    rest = await trainer.collect(consumer="t", count=5, block_s=0)
    assert [entry.group_id for entry in held + rest] == ["g0", "g3"]
    pending = await trainer.collect_pending(consumer="t")
    assert [entry.group_id for entry in pending] == ["g0", "g1", "g2", "g3"]
    assert await trainer.collect(consumer="t", count=5, block_s=0) == []
    async with Redis.from_url(redis_url) as raw:
        holders = [row["name"] for row in await raw.xinfo_consumers(trainer.keys[1], "trainer") if row["pending"]]
    assert holders == [b"t"]
    await trainer.acknowledge(ids(pending))
    assert await trainer.depth() == Depth(0, 0, 0, 0, 0)
