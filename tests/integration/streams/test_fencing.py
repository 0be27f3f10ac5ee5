"""The broker refuses the calls of a trainer that has lost its lease, even if this trainer does not check its lease."""

from collections.abc import AsyncIterator, Callable

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from arlarena.proto.streams.connection import TrainerLeaseLost
from arlarena.proto.streams.queue import Streams
from arlarena.proto.streams.trainer_lease import TrainerLease

CALLS: dict[str, Callable] = {
    "issue": lambda streams, entry, tasks: streams.issue(tasks),
    "withdraw": lambda streams, entry, tasks: streams.withdraw([tasks[0].group_id, "g1"]),
    "acknowledge": lambda streams, entry, tasks: streams.acknowledge({entry.stream_id: entry.group_id}),
    "copy_to_dead_letters": lambda streams, entry, tasks: streams.copy_to_dead_letters(entry, "of another model"),
    "reset": lambda streams, entry, tasks: streams.reset(),
}


@pytest.fixture
async def fenced(redis_url: str, run_name: str) -> AsyncIterator[tuple[Streams, TrainerLease]]:
    """The streams of a trainer, with its lease."""
    with TrainerLease.acquire(redis_url, run_name, "first") as lease:
        async with await Streams.connect(redis_url, run_name, fencing_token=lease.token) as streams:
            yield streams, lease


async def contents(url: str, streams: Streams) -> list[bytes | None]:
    async with AsyncRedis.from_url(url) as raw:
        return [await raw.dump(key) for key in streams.keys]


async def one_group(streams: Streams, worker: Streams, make_tasks, make_group):
    """Two tasks, the first of which is played and collected. Returns its entry."""
    assert await streams.issue(make_tasks(2)) == 2
    lease = await worker.lease(consumer="w", block_s=1)
    assert await worker.complete(lease, make_group(lease.task, "w"))
    (entry,) = await streams.collect(consumer="t", count=1, block_s=1)
    return entry


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("finished", [False, True], ids=["the-other-trains", "the-other-has-finished"])
async def test_a_call_after_the_lease_is_lost_changes_nothing(
    fenced, connect, redis_url, run_name, make_tasks, make_group, call, finished
) -> None:
    (streams, lease), worker = fenced, await connect()
    entry = await one_group(streams, worker, make_tasks, make_group)
    lease.release()
    other = TrainerLease.acquire(redis_url, run_name, "other")
    if finished:
        other.release()
    before = await contents(redis_url, streams)
    with pytest.raises(
        TrainerLeaseLost, match=r"trainer other \(pid \d+ on .*\) has taken over the run, so this trainer stops"
    ):
        await call(streams, entry, make_tasks(4)[2:])
    assert await contents(redis_url, streams) == before
    assert await worker.lease(consumer="w", block_s=1)  # workers continue
    other.release()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_calls_of_the_holder_work_also_after_the_broker_lost_the_lease(
    fenced, connect, redis_url, run_name, make_tasks, make_group, call
) -> None:
    streams, _ = fenced
    entry = await one_group(streams, await connect(), make_tasks, make_group)
    with Redis.from_url(redis_url) as redis:
        redis.delete(f"arl:{{{run_name}}}:trainer", f"arl:{{{run_name}}}:last-trainer")
    before = await contents(redis_url, streams)
    await call(streams, entry, make_tasks(4)[2:])
    assert await contents(redis_url, streams) != before
