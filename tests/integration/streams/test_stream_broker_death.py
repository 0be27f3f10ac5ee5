"""The broker is killed, hangs, or loses data: acknowledged writes are not lost, and no call hangs."""

import asyncio
import os
import signal
import time

import pytest
from redis.asyncio import Redis

from arlarena.proto.streams.queue import Depth, StreamError, Streams


def kill(broker) -> None:
    os.kill(broker.process.pid, signal.SIGKILL)
    broker.process.wait()


async def test_kill_9_of_the_broker_loses_no_acknowledged_write(broker, make_tasks, make_group) -> None:
    async with await Streams.connect(broker.url, "r", lease_ttl_s=60) as streams:
        await streams.issue(make_tasks(5))
        first, second, third = [await streams.lease(consumer="w", block_s=0) for _ in range(3)]
        await streams.complete(first, make_group(first.task))
        await streams.complete(second, make_group(second.task))
        collected = await streams.collect(consumer="t", count=1, block_s=0)
        await streams.acknowledge({collected[0].stream_id: collected[0].group_id})
        collected = await streams.collect(consumer="t", count=1, block_s=0)
        expected = await streams.depth()
        assert expected == Depth(2, 1, 0, 1, 0)

        kill(broker)
        broker.start()
        assert await streams.depth() == expected
        assert await streams.collect_pending(consumer="t") == collected
        assert await streams.outstanding() == {"g1", "g2", "g3", "g4"}
        assert await streams.issue(make_tasks(4, first=1)) == 0
        # The worker still has the lease.
        assert await streams.renew(third)
        assert await streams.complete(third, make_group(third.task))
        assert not await streams.complete(first, make_group(first.task))


async def test_workers_and_trainer_continue_after_kills_of_the_broker(broker, make_tasks, make_group) -> None:
    total, kills = 120, 3
    collected: list[str] = []

    async def work(streams: Streams, name: str) -> None:
        while True:
            lease = await streams.lease(consumer=name, block_s=1)
            if lease is not None:
                await streams.complete(lease, make_group(lease.task, name))

    async with await Streams.connect(broker.url, "r", lease_ttl_s=1.0, max_deliveries=1000) as streams:
        await streams.issue(make_tasks(total))
        workers = [asyncio.create_task(work(streams, f"w{i}")) for i in range(3)]
        for threshold in [total * (i + 1) // (kills + 1) for i in range(kills)] + [total]:
            async with asyncio.timeout(40):
                while len(collected) < threshold:
                    entries = await streams.collect(consumer="t", count=5, block_s=1)
                    collected += [entry.group_id for entry in entries]
            if threshold < total:
                kill(broker)
                await asyncio.to_thread(broker.start)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        assert sorted(collected) == sorted(f"g{i}" for i in range(total))
        assert await streams.collect(consumer="t", count=5, block_s=0) == []
        assert await streams.depth() == Depth(0, 0, 0, total, 0)


async def test_an_unreachable_broker_is_an_error_after_reconnect_s(broker, make_tasks) -> None:
    async with await Streams.connect(broker.url, "r", timeout_s=0.5, reconnect_s=0.6) as streams:
        kill(broker)
        calls = {
            "issue": lambda: streams.issue(make_tasks(1)),
            "lease": lambda: streams.lease(consumer="w", block_s=60),
            "collect": lambda: streams.collect(consumer="t", count=1, block_s=60),
            "depth": streams.depth,
        }
        for call in calls.values():
            started = time.monotonic()
            with pytest.raises(StreamError, match=r"no Redis at redis://:\*\*\*@127.0.0.1:\d+/0: either start"):
                await call()
            assert 0.3 < time.monotonic() - started < 4.0


async def test_a_hanging_broker_is_an_error_after_the_timeout(broker) -> None:
    async with await Streams.connect(broker.url, "r", timeout_s=0.3, reconnect_s=0.8) as streams:
        os.kill(broker.process.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(StreamError):
                await streams.collect(consumer="t", count=1, block_s=60)
            with pytest.raises(StreamError):
                await Streams.connect(broker.url, "r", timeout_s=0.3, reconnect_s=0)
            assert time.monotonic() - started < 6.0
        finally:
            os.kill(broker.process.pid, signal.SIGCONT)
        assert await streams.collect(consumer="t", count=1, block_s=0.1) == []


async def test_closing_connections_that_a_hanging_broker_does_not_read_is_no_error(broker) -> None:
    streams = await Streams.connect(broker.url, "r", timeout_s=0.3, reconnect_s=0)
    link = streams._link._redis
    connection = await link.connection_pool.get_connection()
    os.kill(broker.process.pid, signal.SIGSTOP)
    try:
        connection._writer.write(bytes(64 << 20))  # more than the sockets' buffers, so it stays unsent
        await link.connection_pool.release(connection)
        async with asyncio.timeout(5):
            await streams.close()
    finally:
        os.kill(broker.process.pid, signal.SIGCONT)


async def test_issuing_again_restores_a_broker_that_lost_all_data(broker, make_tasks, make_group) -> None:
    async with await Streams.connect(broker.url, "r") as streams:
        await streams.issue(make_tasks(3))
        lease = await streams.lease(consumer="w", block_s=0)
        waiting = asyncio.create_task(streams.collect(consumer="t", count=1, block_s=20))
        await asyncio.wait([waiting], timeout=0.1)
        async with Redis.from_url(broker.url) as raw:
            await raw.flushall()
        assert not await streams.renew(lease)
        assert not await streams.complete(lease, make_group(lease.task, "from before"))
        assert await streams.issue(make_tasks(3)) == 3
        lease = await streams.lease(consumer="w", block_s=1)
        assert await streams.complete(lease, make_group(lease.task, "after"))
        assert [entry.item.worker for entry in await waiting] == ["after"]


async def test_entries_written_without_consumer_groups_are_delivered(broker, make_tasks) -> None:
    async with await Streams.connect(broker.url, "r") as streams, Redis.from_url(broker.url) as raw:
        await raw.flushall()
        await streams.issue(make_tasks(2))
        assert (await streams.lease(consumer="w", block_s=0)).task.group_id == "g0"
        await raw.xgroup_destroy(streams.keys[0], "rollout")
        assert (await streams.lease(consumer="w", block_s=0)).task.group_id == "g0"


async def test_issuing_again_restores_a_single_lost_task(broker, make_tasks) -> None:
    async with await Streams.connect(broker.url, "r") as streams:
        await streams.issue(make_tasks(2))
        async with Redis.from_url(broker.url) as raw:
            (entry, _) = (await raw.xrange(streams.keys[0], count=1))[0]
            await raw.xdel(streams.keys[0], entry)
        assert await streams.issue(make_tasks(2)) == 1
        leases = [await streams.lease(consumer="w", block_s=0) for _ in range(2)]
        assert sorted(lease.task.group_id for lease in leases) == ["g0", "g1"]


async def test_a_full_broker_is_named_in_the_error(broker, make_tasks) -> None:
    async with await Streams.connect(broker.url, "r") as streams, Redis.from_url(broker.url) as raw:
        await raw.config_set("maxmemory", 1)
        with pytest.raises(StreamError, match="is full: either raise its maxmemory"):
            await streams.issue(make_tasks(1))
        await raw.config_set("maxmemory", 0)
        assert await streams.issue(make_tasks(1)) == 1


async def test_a_wrong_password_is_an_error_at_once(broker) -> None:
    for user in ("", ":wr0ng@"):
        with pytest.raises(StreamError, match=r"refused .*REDIS_PASSWORD_FILE") as caught:
            await Streams.connect(f"redis://{user}127.0.0.1:{broker.port}/0", "r", reconnect_s=60)
        assert "wr0ng" not in str(caught.value)
    async with await Streams.connect(broker.url, "r") as streams:
        assert await streams.depth() == Depth(0, 0, 0, 0, 0)


async def test_another_server_than_redis_is_an_error_at_once() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(StreamError, match=rf"127.0.0.1:{port}"):
        await Streams.connect(f"redis://127.0.0.1:{port}/0", "r", timeout_s=2)
    server.close()


async def test_keys_of_another_type_are_an_error(broker, make_tasks) -> None:
    async with Redis.from_url(broker.url) as raw:
        await raw.set("arl:{r}:tasks", "a string")
    with pytest.raises(StreamError, match=r"WRONGTYPE|wrong kind"):
        await Streams.connect(broker.url, "r")


async def test_a_cancellation_during_a_write_ends_the_call(broker) -> None:
    async with await Streams.connect(broker.url, "r") as streams:

        async def for_ever() -> None:
            while True:
                await streams.depth()

        for delay in range(60):
            task = asyncio.create_task(for_ever())
            for _ in range(delay):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=2)
            assert done, f"cancelled at turn {delay} of the event loop, and still running"
            assert task.cancelled()
