"""The worker against a real broker, with scripted services: leases, failures, renewal, draining."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from arlarena.proto.http.metrics_port import served_metrics
from arlarena.proto.streams.queue import DeadLetter, Streams
from arlarena.proto.trajectory import Group, GroupTask, Sampling, Task
from arlarena.rollout.episode import turn_seed
from arlarena.rollout.policies import EnginePolicy
from arlarena.rollout.runner import Runner
from arlarena.rollout.tokens import Tokens
from arlarena.rollout.worker import Worker
from arlarena.rollout.worker_metrics import WorkerCollector

Connect = Callable[..., Awaitable[Streams]]


@pytest.fixture
async def connect(redis_url: str, run_name: str) -> AsyncIterator[Connect]:
    opened: list[Streams] = []

    async def one_more(**limits: Any) -> Streams:
        opened.append(await Streams.connect(redis_url, run_name, **{"retry_delay_s": 0.05, **limits}))
        return opened[-1]

    yield one_more
    for streams in opened:
        await streams.close()


def orders(n: int, size: int = 3) -> list[GroupTask]:
    return [GroupTask(f"g{i}", Task("corridor", "train", i), size, Sampling(max_tokens=64)) for i in range(n)]


def make_worker(house: Any, tokens: Tokens, streams: Streams, name: str = "w0", **changes: Any) -> Worker:
    settings = house.settings.model_copy(update={"lease_ttl_s": streams.limits.lease_ttl_s, **changes})
    runner = Runner(house.environments, house.inference, settings, house.runner.log)
    return Worker(
        name, streams, runner, lambda s: EnginePolicy(house.inference, tokens, s, 512), settings, house.runner.log
    )


@asynccontextmanager
async def working(
    house: Any, tokens: Tokens, streams: Streams, name: str = "w0", **changes: Any
) -> AsyncIterator[Worker]:
    """A worker that runs until the block ends, and must then stop without an error."""
    stop, worker = asyncio.Event(), make_worker(house, tokens, streams, name, **changes)
    running = asyncio.ensure_future(worker.run(stop))
    try:
        yield worker
    finally:
        stop.set()
        await asyncio.wait_for(running, 20)


async def collect(streams: Streams, count: int) -> dict[str, Group | DeadLetter]:
    found: dict[str, Group | DeadLetter] = {}
    async with asyncio.timeout(20):
        while len(found) < count:
            for entry in await streams.collect(consumer="t", count=count, block_s=0.2):
                assert entry.group_id not in found
                found[entry.group_id] = entry.item
    return found


async def test_every_group_arrives_once_and_complete(house: Any, tokens: Tokens, connect: Connect) -> None:
    trainer = await connect()
    await trainer.issue(orders(12))
    async with (
        working(house, tokens, await connect(), "w0") as one,
        working(house, tokens, await connect(), "w1") as two,
    ):
        groups = await collect(trainer, 12)
    assert sorted(groups) == sorted(f"g{i}" for i in range(12))
    for group in groups.values():
        assert isinstance(group, Group)
        assert [t.id for t in group.trajectories] == [f"{group.id}-{member}" for member in range(3)]
        assert all(t.success and len(t.turns) == 3 for t in group.trajectories)
    assert one.counters.completed + two.counters.completed == 12
    assert (await trainer.depth()).tasks_queued == (await trainer.depth()).tasks_leased == 0
    assert house.corridor.sessions == {}


async def test_the_counters_are_served_for_prometheus(house: Any, tokens: Tokens, connect: Connect) -> None:
    streams = await connect()
    await streams.issue(orders(4))
    async with working(house, tokens, streams) as worker:
        await collect(streams, 4)
        with served_metrics(WorkerCollector("demo", worker), "127.0.0.1", 0, house.runner.log) as port:
            text = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
        counters = worker.counters
    found = [line.partition("{")[0] + " " + line.rpartition(" ")[2] for line in text.splitlines() if line[0] != "#"]
    assert 'arlarena_rollout_groups_total{outcome="completed",run="demo",worker="w0"} 4.0' in text
    assert f"arlarena_rollout_episodes_total {counters.episodes:.1f}" in found
    assert f"arlarena_rollout_turns_total {counters.turns:.1f}" in found
    assert f"arlarena_rollout_response_tokens_total {counters.response_tokens:.1f}" in found
    assert (counters.episodes, counters.turns > 0, counters.response_tokens > 0) == (12, True, True)
    assert any(line.startswith("arlarena_rollout_groups_playing ") for line in found)


async def test_slots_bound_the_groups_in_flight(house: Any, tokens: Tokens, connect: Connect) -> None:
    trainer = await connect()
    await trainer.issue(orders(9))
    most = 0

    def watch() -> None:
        nonlocal most
        most = max(most, len(house.corridor.sessions))

    house.corridor.on_step = watch
    async with working(house, tokens, await connect(), groups_in_flight=2):
        await collect(trainer, 9)
    assert most == 6


async def test_a_slow_episode_does_not_keep_others_from_being_played(
    house: Any, tokens: Tokens, connect: Connect
) -> None:
    trainer = await connect()
    await trainer.issue(orders(6))
    house.mouth.held = {turn_seed("0/g0/0", 0), turn_seed("0/g1/0", 0)}
    async with working(house, tokens, await connect(), groups_in_flight=2):
        assert set(await collect(trainer, 4)) == {"g2", "g3", "g4", "g5"}
        house.mouth.release.set()
        assert set(await collect(trainer, 2)) == {"g0", "g1"}
    assert house.corridor.sessions == {}


async def test_a_group_that_failed_is_played_again_and_not_scored(house: Any, tokens: Tokens, connect: Connect) -> None:
    trainer = await connect()
    await trainer.issue(orders(1))
    house.mouth.faults = [500] * 3
    async with working(house, tokens, await connect(), episode_retries=0) as worker:
        groups = await collect(trainer, 1)
    group = groups["g0"]
    assert isinstance(group, Group)
    assert all(t.success and t.outcome == "ok" for t in group.trajectories)
    assert worker.counters.failed >= 1
    assert any(line["event"] == "group_failed" and "500" in line["reason"] for line in house.log)


async def test_a_group_that_always_fails_becomes_a_dead_letter(house: Any, tokens: Tokens, connect: Connect) -> None:
    trainer = await connect(max_deliveries=2)
    await trainer.issue(orders(1))
    house.mouth.faults = [500] * 1000
    async with working(house, tokens, await connect(max_deliveries=2), episode_retries=0):
        groups = await collect(trainer, 1)
    letter = groups["g0"]
    assert isinstance(letter, DeadLetter)
    assert "500" in letter.reason


async def test_a_wrong_task_is_a_dead_letter_after_one_delivery(house: Any, tokens: Tokens, connect: Connect) -> None:
    house.corridor.size = 1
    trainer = await connect(max_deliveries=5)
    await trainer.issue(orders(2))
    async with working(house, tokens, await connect(max_deliveries=5)):
        groups = await collect(trainer, 2)
    assert isinstance(groups["g0"], Group)
    assert isinstance(groups["g1"], DeadLetter)
    assert "unknown_task" in groups["g1"].reason
    assert groups["g1"].deliveries == 1


async def test_a_lease_is_renewed_while_its_group_is_played(house: Any, tokens: Tokens, connect: Connect) -> None:
    trainer = await connect(lease_ttl_s=0.6)
    await trainer.issue(orders(1, size=1))
    # Three turns of 0.8 s each, with a lease of 0.6 s: without renewal the other worker would get the group too.
    house.mouth.faults = [0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    first, second = await connect(lease_ttl_s=0.6), await connect(lease_ttl_s=0.6)
    async with working(house, tokens, first, "w0") as one, working(house, tokens, second, "w1") as two:
        groups = await collect(trainer, 1)
    assert isinstance(groups["g0"], Group)
    assert len(house.mouth.requests) == 3
    assert sorted((one.counters.completed, two.counters.completed)) == [0, 1]
    assert one.counters.lost == two.counters.lost == 0


async def test_a_lost_lease_stops_the_play(house: Any, tokens: Tokens, connect: Connect) -> None:
    trainer = await connect(lease_ttl_s=0.6)
    await trainer.issue(orders(1, size=1))
    house.mouth.faults = [0.9] * 100
    async with working(house, tokens, await connect(lease_ttl_s=0.6)) as worker:
        async with asyncio.timeout(10):
            while not house.mouth.requests:
                await asyncio.sleep(0.01)
            await trainer.reset()
            while not worker.counters.lost:
                await asyncio.sleep(0.01)
    assert worker.counters.completed == 0
    assert house.corridor.sessions == {}
    assert any(line["event"] == "lease_lost" for line in house.log)


async def test_a_worker_stops_when_its_stop_file_exists(
    house: Any, tokens: Tokens, connect: Connect, tmp_path: Path
) -> None:
    trainer, file = await connect(), tmp_path / "summary.json"
    await trainer.issue(orders(2))
    worker = make_worker(house, tokens, await connect(), stop_file=file, report_every_s=0.05)
    running = asyncio.ensure_future(worker.run(asyncio.Event()))
    await collect(trainer, 2)
    assert not running.done()
    file.touch()
    await asyncio.wait_for(running, 20)
    assert worker.counters.completed == 2


async def test_stopping_lets_groups_in_flight_finish(house: Any, tokens: Tokens, connect: Connect) -> None:
    trainer = await connect()
    await trainer.issue(orders(2))
    house.mouth.faults = [0.3] * 6
    async with working(house, tokens, await connect()) as worker, asyncio.timeout(10):
        while len(house.mouth.requests) < 6:
            await asyncio.sleep(0.01)
        await trainer.issue(orders(1000)[2:])
    # Stopped by now: what was in flight is published; a task that was just being leased went back untouched.
    depth = await trainer.depth()
    assert worker.counters.completed >= 2
    assert depth.tasks_leased <= 1
    assert worker.counters.completed + depth.tasks_queued + depth.tasks_leased == 1000
    lease = await trainer.lease(consumer="w1", block_s=1.0)
    assert lease is not None
    assert lease.deliveries == 1
    assert house.corridor.sessions == {}


async def test_stop_returns_slow_groups_to_the_queue(house: Any, tokens: Tokens, connect: Connect) -> None:
    trainer = await connect()
    await trainer.issue(orders(2))
    house.mouth.faults = [0.9] * 1000
    async with working(house, tokens, await connect(), drain_s=0.1) as worker, asyncio.timeout(10):
        while len(house.mouth.requests) < 6:
            await asyncio.sleep(0.01)
    assert worker.counters.released == 2
    assert house.corridor.sessions == {}
    # At once and as a first delivery: an orderly stop costs the task nothing.
    house.mouth.faults = []
    lease = await (await connect()).lease(consumer="w1", block_s=1.0)
    assert lease is not None
    assert lease.deliveries == 1
