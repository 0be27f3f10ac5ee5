"""A worker for the tests: `stream_worker.py URL RUN CONSUMER`; leases and completes groups until it is killed."""

import argparse
import asyncio
import random

from arlarena.proto.streams.queue import GroupLease, Streams
from arlarena.proto.trajectory import Group, PolicyVersion, Sampling

VERSION = PolicyVersion("test", 0, "00")


async def hold(streams: Streams, lease: GroupLease, period_s: float) -> None:
    """Renew the lease until killed."""
    print("leased", lease.task.group_id, flush=True)
    while await streams.renew(lease):
        await asyncio.sleep(period_s)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("run")
    parser.add_argument("consumer")
    parser.add_argument("--ttl", type=float, required=True)
    parser.add_argument("--hold", action="store_true")
    options = parser.parse_args()
    rng = random.Random(options.consumer)
    async with await Streams.connect(options.url, options.run, lease_ttl_s=options.ttl, max_deliveries=1000) as streams:
        print("ready", flush=True)
        while True:
            lease = await streams.lease(consumer=options.consumer, block_s=5.0)
            if lease is None:
                continue
            if options.hold:
                await hold(streams, lease, options.ttl / 4)
                continue
            await asyncio.sleep(rng.uniform(0.005, 0.03))  # the work
            task = lease.task
            group = Group(
                task.group_id, task.task, 2, (), Sampling(), VERSION, VERSION, options.consumer, lease.deliveries - 1
            )
            await streams.complete(lease, group)


asyncio.run(main())
