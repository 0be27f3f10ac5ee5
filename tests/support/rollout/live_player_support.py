"""A worker that plays with the newest published weights, at random speed and with random success."""

import asyncio
import contextlib
import json
import random

import msgspec

from arlarena.proto.trajectory import PolicyVersion


class LivePlayer:
    """Several players on one connection. The weights can become newer between the members of a group."""

    def __init__(self, streams, weights, make_group, players=2):
        self._streams, self._weights, self._make, self._players = streams, weights, make_group, players
        self._rng = random.Random(5)

    async def serve(self):
        await asyncio.gather(*(self._play(f"player-{number}") for number in range(self._players)))

    async def _play(self, name):
        while True:
            lease = await self._streams.lease(consumer=name, block_s=0.1)
            if lease is None:
                continue
            versions = []
            for _ in range(lease.task.size):
                await asyncio.sleep(self._rng.uniform(0.0, 0.01))  # the duration of an episode
                versions.append(self._newest() or (versions[-1] if versions else None))
            if None in versions:
                await self._streams.release(lease, counted=False)
                continue
            wins = [self._rng.random() < 0.3 for _ in versions]
            group = self._make(lease.task.group_id, wins, versions[0], versions)
            group = msgspec.structs.replace(group, task=lease.task.task, size=lease.task.size, oldest=versions[0],
                                            newest=versions[-1])  # fmt: skip
            await self._streams.complete(lease, group)

    def _newest(self):
        for marker in sorted(self._weights.glob("v*/COMMITTED"), reverse=True):
            with contextlib.suppress(OSError, ValueError):
                return PolicyVersion(**json.loads((marker.parent / "manifest.json").read_text())["version"])
        return None
