"""A worker while the memory of Redis is full: it keeps its groups and their leases, and publishes them later."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from arlarena.proto.streams.queue import BrokerFull, Streams
from arlarena.proto.trajectory import GroupTask, Sampling, Task
from arlarena.rollout.policies import EnginePolicy
from arlarena.rollout.runner import Runner
from arlarena.rollout.tokens import Tokens
from arlarena.rollout.worker import Worker

LEASE_TTL_S = 0.6
GROUPS, IN_FLIGHT = 9, 3
# The memory in use varies with the buffers of the connections, by less than this.
MARGIN_BYTES = 150_000


class Watched(Streams):
    """Counts groups that were offered to the broker, and renewals."""

    offered = renewed = 0

    async def complete(self, lease: Any, group: Any) -> bool:
        self.offered += 1
        return await super().complete(lease, group)

    async def renew(self, lease: Any) -> bool:
        kept = await super().renew(lease)
        self.renewed += kept
        return kept


@pytest.fixture
async def raw(broker: Any) -> AsyncIterator[Redis]:
    async with Redis.from_url(broker.url) as redis:
        yield redis


async def fill(raw: Redis) -> None:
    await raw.config_set("maxmemory", (await raw.info("memory"))["used_memory"] - MARGIN_BYTES)


def worker_of(house: Any, tokens: Tokens, streams: Streams, name: str) -> Worker:
    settings = house.settings.model_copy(update={"lease_ttl_s": LEASE_TTL_S, "groups_in_flight": IN_FLIGHT})
    runner = Runner(house.environments, house.inference, settings, house.runner.log)
    return Worker(
        name, streams, runner, lambda s: EnginePolicy(house.inference, tokens, s, 512), settings, house.runner.log
    )


def orders() -> list[GroupTask]:
    return [GroupTask(f"g{i}", Task("corridor", "train", i), 1, Sampling(max_tokens=64)) for i in range(GROUPS)]


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_groups_and_leases_are_kept_until_there_is_room(
    house: Any, tokens: Tokens, broker: Any, raw: Redis
) -> None:
    async with (
        await Streams.connect(broker.url, "r") as trainer,
        await Watched.connect(broker.url, "r", lease_ttl_s=LEASE_TTL_S, full_timeout_s=60.0) as one,
        await Watched.connect(broker.url, "r", lease_ttl_s=LEASE_TTL_S, full_timeout_s=60.0) as other,
    ):
        await trainer.issue(orders())
        stop = asyncio.Event()
        await fill(raw)
        first = asyncio.ensure_future(worker_of(house, tokens, one, "w0").run(stop))
        await until(lambda: one.offered == IN_FLIGHT)
        # Another worker gets the tasks that are left, and none of those that wait to be published.
        second = asyncio.ensure_future(worker_of(house, tokens, other, "w1").run(stop))
        await until(lambda: other.offered == IN_FLIGHT and one.renewed >= 5 * IN_FLIGHT)  # 5/3 of a lease's time
        assert (one.offered, other.offered) == (IN_FLIGHT, IN_FLIGHT)
        assert not first.done()
        assert not second.done()
        await raw.config_set("maxmemory", 0)
        found: set[str] = set()
        async with asyncio.timeout(20):
            while len(found) < GROUPS:
                found |= {e.group_id for e in await trainer.collect(consumer="t", count=GROUPS, block_s=0.2)}
        stop.set()
        await asyncio.wait_for(asyncio.gather(first, second), 20)
        assert one.offered + other.offered == GROUPS  # each group was played once
    assert [line for line in house.log if line["event"] == "lease_lost"] == []


async def test_a_broker_that_stays_full_ends_the_worker_with_its_name(
    house: Any, tokens: Tokens, broker: Any, raw: Redis
) -> None:
    async with (
        await Streams.connect(broker.url, "r") as trainer,
        await Streams.connect(broker.url, "r", lease_ttl_s=LEASE_TTL_S, full_timeout_s=0.3) as streams,
    ):
        await trainer.issue(orders())
        await fill(raw)
        running = worker_of(house, tokens, streams, "w0").run(asyncio.Event())
        with pytest.raises(BrokerFull, match="is full: either raise its maxmemory"):
            await asyncio.wait_for(running, 20)
        await raw.config_set("maxmemory", 0)
