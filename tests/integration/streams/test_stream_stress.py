"""Four workers, 200 groups, random kill -9, and a trainer that crashes half-way: each group is collected once."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from arlarena.proto.streams.queue import Depth, Streams

WORKER = Path(__file__).with_name("stream_worker.py")
GROUPS, WORKERS, KILLS, TTL_S = 200, 4, 10, 1.0


class Workers:
    """A pool of worker processes that replaces killed workers."""

    def __init__(self, url: str, run: str) -> None:
        self.url, self.run, self.started = url, run, 0
        self.alive: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        name = f"worker-{self.started}"
        self.started += 1
        arguments = [sys.executable, str(WORKER), self.url, self.run, name, "--ttl", str(TTL_S)]
        self.alive.append(await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.PIPE))

    async def kill(self, worker: asyncio.subprocess.Process) -> None:
        self.alive.remove(worker)
        os.kill(worker.pid, signal.SIGKILL)
        await worker.wait()


async def test_every_group_is_collected_exactly_once(connect, redis_url, run_name, make_tasks) -> None:
    rng = random.Random(0)
    trainer: Streams = await connect()
    workers = Workers(redis_url, run_name)
    delivered: Counter[str] = Counter()
    redone = 0
    unacknowledged: dict[str, str] = {}
    crashed = False
    try:
        for _ in range(WORKERS):
            await workers.start()
        for worker in workers.alive:
            assert (await asyncio.wait_for(worker.stdout.readline(), 60)).strip() == b"ready"
        assert await trainer.issue(make_tasks(GROUPS)) == GROUPS
        async with asyncio.timeout(90):
            while delivered.total() < GROUPS:
                entries = await trainer.collect(consumer="t", count=7, block_s=1)
                delivered.update(entry.group_id for entry in entries)
                redone += sum(entry.item.retries > 0 for entry in entries)
                unacknowledged |= {entry.stream_id: entry.group_id for entry in entries}
                if delivered.total() * (KILLS + 1) // GROUPS > workers.started - WORKERS and len(workers.alive) > 0:
                    await workers.kill(rng.choice(workers.alive))
                    await workers.start()
                if delivered.total() > GROUPS // 2 and not crashed:
                    crashed = True
                    await trainer.acknowledge(dict(list(unacknowledged.items())[:50]))
                    await trainer.close()
                    trainer = await connect()
                    pending = await trainer.collect_pending(consumer="t-after-crash")
                    again = {entry.stream_id: entry.group_id for entry in pending}
                    # Entries of the dead trainer are delivered again; new entries are collected on the way.
                    assert set(list(unacknowledged)[50:]) <= set(again)
                    delivered.update(entry.group_id for entry in pending if entry.stream_id not in unacknowledged)
                    unacknowledged = again
    finally:
        for worker in list(workers.alive):
            await workers.kill(worker)
    assert crashed
    assert workers.started >= WORKERS + KILLS
    assert redone > 0, "no kill hit a worker in the middle of a group, so the test showed nothing"
    assert delivered == Counter(f"g{i}" for i in range(GROUPS))
    await trainer.acknowledge(unacknowledged)
    assert await trainer.collect(consumer="t", count=10, block_s=0) == []
    assert await trainer.depth() == Depth(0, 0, 0, 0, 0)
