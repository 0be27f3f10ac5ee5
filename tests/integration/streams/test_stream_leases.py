"""Leases of tasks: renewal, expiry, failures and dead letters."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from arlarena.proto.streams.queue import DeadLetter, Depth

WORKER = Path(__file__).with_name("stream_worker.py")


async def test_a_renewed_lease_is_kept_and_an_unrenewed_lease_is_taken(connect, make_tasks) -> None:
    streams = await connect(lease_ttl_s=0.8)
    await streams.issue(make_tasks(2))
    kept = await streams.lease(consumer="long", block_s=0)
    dropped = await streams.lease(consumer="silent", block_s=0)
    stop = time.monotonic() + 2.0
    taken = []
    while time.monotonic() < stop:
        assert await streams.renew(kept)
        lease = await streams.lease(consumer="thief", block_s=0.1)
        taken += [lease] if lease is not None else []
        for other in taken:
            assert await streams.renew(other)
    assert [lease.task.group_id for lease in taken] == ["g1"]
    assert taken[0].deliveries == 2
    assert not await streams.renew(dropped)
    assert kept.deliveries == 1


async def test_renewing_does_not_count_as_delivery(connect, make_tasks, make_group) -> None:
    streams = await connect(lease_ttl_s=30, max_deliveries=2)
    await streams.issue(make_tasks(1))
    lease = await streams.lease(consumer="w", block_s=0)
    for _ in range(10):
        assert await streams.renew(lease)
    await streams.release(lease)
    again = await streams.lease(consumer="w", block_s=0)
    assert again.deliveries == 2
    assert await streams.complete(again, make_group(again.task))


async def test_the_same_consumer_does_not_renew_a_lease_from_before_it_lost_it(connect, make_tasks) -> None:
    streams = await connect(lease_ttl_s=0.1)
    await streams.issue(make_tasks(1))
    old = await streams.lease(consumer="w", block_s=0)
    new = await streams.lease(consumer="w", block_s=5)
    assert not await streams.renew(old)
    assert await streams.renew(new)
    await streams.release(old)
    await streams.fail(old, "late")
    assert await streams.renew(new)


async def test_a_task_delivered_too_often_becomes_a_dead_letter(connect, make_tasks, make_group) -> None:
    streams = await connect(lease_ttl_s=0.1, max_deliveries=3)
    await streams.issue(make_tasks(1))
    leases = [await streams.lease(consumer=f"w{i}", block_s=5) for i in range(3)]
    assert [lease.deliveries for lease in leases] == [1, 2, 3]
    assert await streams.lease(consumer="w3", block_s=0.5) is None
    letter = DeadLetter("g0", "the lease of w2 expired without renewal", 3)
    assert await streams.dead_letters() == [letter]
    (entry,) = await streams.collect(consumer="t", count=5, block_s=0)
    assert entry.item == letter
    assert await streams.depth() == Depth(0, 0, 0, 1, 1)
    # A completion by its last worker is too late, because the tombstone is already in the stream.
    assert not await streams.complete(leases[-1], make_group(leases[-1].task))
    assert await streams.collect(consumer="t", count=5, block_s=0) == []


async def test_a_failed_task_is_delivered_again_after_retry_delay_s(connect, make_tasks) -> None:
    streams = await connect(retry_delay_s=0.6, lease_ttl_s=20)
    await streams.issue(make_tasks(1))
    await streams.fail(await streams.lease(consumer="w", block_s=0), "boom")
    failed = time.monotonic()
    assert (await streams.lease(consumer="w", block_s=10)).deliveries == 2
    assert 0.55 <= time.monotonic() - failed < 5


async def test_retry_delays_double_and_the_last_reason_is_kept(connect, redis_url, make_tasks) -> None:
    streams = await connect(max_deliveries=4, retry_delay_s=8, lease_ttl_s=60)
    await streams.issue(make_tasks(1))
    rests_s = []
    async with Redis.from_url(redis_url) as raw:
        for delivery in (1, 2, 3, 4):
            lease = await streams.lease(consumer="w", block_s=0)
            assert lease.deliveries == delivery
            await streams.fail(lease, f"failure {delivery}")
            for pending in await raw.xpending_range(streams.keys[0], "rollout", "-", "+", 1):
                rests_s.append(60 - pending["time_since_delivered"] / 1000)
                # Age the entry instead of waiting.
                await raw.xclaim(streams.keys[0], "rollout", "x", 0, [lease.stream_id], idle=60_000, justid=True)
    assert rests_s == pytest.approx([8, 16, 32], abs=3)
    (entry,) = await streams.collect(consumer="t", count=5, block_s=0)
    assert entry.item == DeadLetter("g0", "failure 4", 4)


async def test_a_final_failure_is_a_dead_letter_at_once(connect, make_tasks) -> None:
    streams = await connect(max_deliveries=5)
    await streams.issue(make_tasks(1))
    await streams.fail(await streams.lease(consumer="w", block_s=0), "no such task", final=True)
    (entry,) = await streams.collect(consumer="t", count=5, block_s=0)
    assert entry.item == DeadLetter("g0", "no such task", 1)


async def test_a_reason_is_kept_if_a_later_worker_dies(connect, make_tasks) -> None:
    streams = await connect(max_deliveries=2, retry_delay_s=0.0, lease_ttl_s=0.2)
    await streams.issue(make_tasks(1))
    await streams.fail(await streams.lease(consumer="w", block_s=0), "no memory left")
    assert (await streams.lease(consumer="w", block_s=5)).deliveries == 2
    assert await streams.lease(consumer="w", block_s=1) is None
    assert [letter.reason for letter in await streams.dead_letters()] == ["no memory left"]


async def test_released_tasks_are_leased_first_and_count_no_delivery(connect, make_tasks) -> None:
    streams = await connect(max_deliveries=2)
    await streams.issue(make_tasks(2))
    for _ in range(5):
        lease = await streams.lease(consumer="w", block_s=0)
        assert (lease.task.group_id, lease.deliveries) == ("g0", 1)
        await streams.release(lease, counted=False)
        assert not await streams.renew(lease)
    await streams.release(await streams.lease(consumer="w", block_s=0))
    assert (await streams.lease(consumer="w", block_s=0)).deliveries == 2
    assert (await streams.lease(consumer="w", block_s=0)).task.group_id == "g1"


async def test_a_worker_that_released_a_task_does_not_hold_its_next_lease(connect, make_tasks) -> None:
    streams = await connect()
    await streams.issue(make_tasks(1))
    old = await streams.lease(consumer="w", block_s=0)
    await streams.release(old, counted=False)
    new = await streams.lease(consumer="v", block_s=0)
    assert new.deliveries == old.deliveries
    assert not await streams.renew(old)
    await streams.fail(old, "late")
    assert await streams.renew(new)


async def test_a_waiting_worker_gets_a_released_task(connect, make_tasks) -> None:
    streams = await connect()
    await streams.issue(make_tasks(1))
    lease = await streams.lease(consumer="w", block_s=0)
    waiting = asyncio.create_task(streams.lease(consumer="v", block_s=20))
    await asyncio.wait([waiting], timeout=0.2)
    await streams.release(lease)
    assert (await asyncio.wait_for(waiting, 5)).task.group_id == "g0"


async def test_expired_leases_behind_many_renewed_ones_are_found(connect, make_tasks) -> None:
    streams = await connect(lease_ttl_s=3.0)  # on a busy machine 200 renewals take more than a second
    await streams.issue(make_tasks(201))
    leases = [await streams.lease(consumer="w", block_s=0) for _ in range(201)]

    async def keep_alive() -> None:
        while True:
            for lease in leases[:-1]:
                await streams.renew(lease)

    keeping = asyncio.create_task(keep_alive())
    result = await streams.lease(consumer="v", block_s=20)
    keeping.cancel()
    assert result.task.group_id == "g200"


async def test_kill_9_of_a_worker_in_the_middle_of_a_lease(
    connect, redis_url, run_name, make_tasks, make_group
) -> None:
    streams = await connect(lease_ttl_s=0.7)
    await streams.issue(make_tasks(1))
    arguments = [sys.executable, str(WORKER), redis_url, run_name, "doomed", "--ttl", "0.7", "--hold"]
    worker = await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.PIPE)
    try:
        output = [await asyncio.wait_for(worker.stdout.readline(), 30) for _ in range(2)]
        assert output == [b"ready\n", b"leased g0\n"]
        # While it renews, no other worker gets the task, for twice the time of the lease.
        assert await streams.lease(consumer="heir", block_s=1.4) is None
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        await worker.wait()
    lease = await streams.lease(consumer="heir", block_s=10)
    assert (lease.task.group_id, lease.deliveries) == ("g0", 2)
    assert await streams.complete(lease, make_group(lease.task, "heir"))
    entries = await streams.collect(consumer="t", count=5, block_s=0)
    assert [entry.item.worker for entry in entries] == ["heir"]


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "g7", "data": b"\xc1 not msgpack"},
        {"id": "g7", "data": b""},
        {"id": "g7"},
        {"something": "else"},
    ],
    ids=["garbage", "empty", "no data", "foreign"],
)
async def test_an_invalid_task_is_a_dead_letter_at_once(connect, redis_url, make_tasks, fields) -> None:
    streams = await connect()
    raw = Redis.from_url(redis_url)
    await raw.xadd(streams.keys[0], fields)
    await raw.aclose()
    await streams.issue(make_tasks(1))
    assert (await streams.lease(consumer="w", block_s=5)).task.group_id == "g0"
    (letter,) = await streams.dead_letters()
    assert "not a group task" in letter.reason
    (entry,) = await streams.collect(consumer="t", count=5, block_s=0)
    assert entry.item == letter
    assert letter.group_id == "g7" or letter.group_id.startswith("unknown-")
    assert (await streams.depth()).tasks_queued == 0


async def test_a_dead_letter_with_a_lost_reply_leaves_one_tombstone(connect, proxy, redis_url) -> None:
    streams = await connect(proxy.url)
    async with Redis.from_url(redis_url) as raw:
        for name in ("warm", "bad"):  # after the first call, the broker caches the script
            await raw.xadd(streams.keys[0], {"id": name, "data": b"\xc1"})
            if name == "bad":
                proxy.lose_answer(b"not a group task")
            assert await streams.lease(consumer="w", block_s=0) is None
    assert proxy.fired.is_set()
    entries = await streams.collect(consumer="t", count=5, block_s=0)
    assert [entry.group_id for entry in entries] == ["warm", "bad"]
    assert await streams.depth() == Depth(0, 0, 0, 2, 2)


async def test_a_task_of_a_newer_schema_is_a_dead_letter_with_the_fix(connect, make_tasks) -> None:
    streams = await connect()
    await streams.issue([msgspec.structs.replace(make_tasks(1)[0], schema=99)])
    assert await streams.lease(consumer="w", block_s=0) is None
    (letter,) = await streams.dead_letters()
    assert "schema 99" in letter.reason
    assert "update arlarena-proto" in letter.reason
