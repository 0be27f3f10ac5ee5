"""A worker that answers tasks with recorded groups, and a configuration for its trainer."""

import asyncio
import contextlib
import json
import random

import msgspec

from arlarena.proto.trajectory import PolicyVersion, VersionSpan


def config_of(steps, **trainer):
    """Return the configuration of a synchronous run without a filter.

    In such a run, the batches do not depend on the order in which groups arrive.
    """
    settings = {
        "recipe": "sampo", "steps": steps, "groups_per_step": 4, "group_size": 3, "minibatch_groups": 2, "staleness": 0,
        "cold_start_steps": steps, "lr": 1e-3, "kl_coefficient": 0.01, "record_groups_every": 0, "reissue_after_s": 0.5,
    } | trainer  # fmt: skip
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    return f'[run]\nname = "recorded"\n[environment]\nname = "sokoban"\n[trainer]\n{lines}\n'


class Recordings:
    """A worker that publishes a recorded group for each task.

    The group has the version of the step at which the task was issued. While the event `playing` is not set, the worker
    leases no task.
    """

    def __init__(self, streams, weights, make_group):
        self._streams, self._weights, self._make = streams, weights, make_group
        self.playing = asyncio.Event()
        self.playing.set()

    async def serve(self):
        while await self.playing.wait():
            lease = await self._streams.lease(consumer="recordings", block_s=0.1)
            if lease is None:
                continue
            version = self.version(lease.task.issued_at_step)
            if version is None:  # a killed trainer issued the task; the resumed trainer will write the version
                await self._streams.release(lease, counted=False)
                await asyncio.sleep(0.02)
                continue
            await self._streams.complete(lease, self.recorded(lease.task, version))

    def version(self, step):
        result = list(self._weights.glob(f"v{step:06d}-*/COMMITTED"))
        if not result:
            return None
        with contextlib.suppress(OSError, ValueError):
            return PolicyVersion(**json.loads((result[0].parent / "manifest.json").read_text())["version"])

    def recorded(self, task, version):
        number = int(task.group_id[1:])
        group = self._make(task.group_id, [(number + member) % 3 == 0 for member in range(3)], version)
        rng = random.Random(number)
        members = []
        for trajectory in group.trajectories:
            turns = tuple(
                msgspec.structs.replace(turn, reward=rng.random(), spans=(VersionSpan(0, 4, version),))
                for turn in trajectory.turns
            )
            members.append(msgspec.structs.replace(trajectory, turns=turns))
        return msgspec.structs.replace(group, task=task.task, trajectories=tuple(members), size=task.size)
