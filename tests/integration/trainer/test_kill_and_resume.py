"""A trainer that is fed recorded groups, killed at random points with SIGKILL and resumed, ends bitwise where one that
was left alone ends: weights, optimiser and metrics.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from safetensors.torch import load_file

from arlarena.proto.stream import Streams
from arlarena.proto.trajectory import PolicyVersion, VersionSpan
from arlarena.trainer.diagnostics import MetricsFile

KILLS, STEPS = 20, 240
CONFIG = f"""
[run]
name = "killed"
[environment]
name = "sokoban"
[trainer]
recipe = "sampo"
steps = {STEPS}
groups_per_step = 4
group_size = 3
minibatch_groups = 2
staleness = 0
cold_start_steps = {STEPS}
lr = 1e-3
kl_coefficient = 0.01
record_groups_every = 0
reissue_after_s = 0.5
"""


class Recordings:
    """A worker that answers every task with a recorded group, as if the version that the task was issued at had played
    it.
    """

    def __init__(self, streams, weights, make_group):
        self._streams, self._weights, self._make = streams, weights, make_group

    async def serve(self):
        while True:
            lease = await self._streams.lease(consumer="recordings", block_s=0.1)
            if lease is None:
                continue
            version = self.version(lease.task.issued_at_step)
            if version is None:  # a trainer that was killed has left the task behind; the resumed one makes the version
                await self._streams.release(lease, counted=False)
                await asyncio.sleep(0.02)
                continue
            await self._streams.complete(lease, self.recorded(lease.task, version))

    def version(self, step):
        found = list(self._weights.glob(f"v{step:06d}-*/COMMITTED"))
        if not found:
            return None
        with contextlib.suppress(OSError, ValueError):
            return PolicyVersion(**json.loads((found[0].parent / "manifest.json").read_text())["version"])

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


class Trainers:
    """The process that forks trainers."""

    def __init__(self, log):
        script = Path(__file__).with_name("forking_trainer.py")
        self._process = subprocess.Popen(
            [sys.executable, script, log], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    async def start(self, arguments):
        """The pid, and the exit status to come."""
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        pid = int(await self._line())
        return pid, asyncio.ensure_future(self._line())

    async def _line(self):
        return await asyncio.to_thread(self._process.stdout.readline)

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._process.stdout.close()


async def train(redis_url, name, run, policy, make_group, kills, rng):
    """Train to the end, however often it is killed; how often it was, and the lengths of the lives."""
    config = run / "run.toml"
    run.mkdir()
    config.write_text(CONFIG)
    arguments = ["train", "--config", str(config), "--model", str(policy), "--run-dir", str(run), "--run-name", name,
                 "--redis-url", redis_url]  # fmt: skip
    trainers, killed = Trainers(run / "log"), 0
    async with await Streams.connect(redis_url, name, retry_delay_s=0.05) as streams:
        feeding = asyncio.create_task(Recordings(streams, run / "weights", make_group).serve())
        try:
            while True:
                pid, ended = await trainers.start(arguments + (["--resume"] if killed else []))
                if killed < kills:
                    done, _ = await asyncio.wait([ended], timeout=rng.uniform(0.15, 0.7))
                    if not done:
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
                status = int(await asyncio.wait_for(ended, 60))
                if status == 0:
                    return killed
                assert status == signal.SIGKILL, (run / "log").read_text()[-3000:]
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            trainers.close()


def figures(run):
    """What every step came to, without times."""
    records = [json.loads(line) for line in MetricsFile(run / "metrics.jsonl").path.read_text().splitlines()]
    return [{k: v for k, v in record.items() if "seconds" not in k and "per_s" not in k} for record in records]


@pytest.mark.timeout(300)
async def test_killed_twenty_times_it_ends_bitwise_equal(redis_url, run_name, tmp_path, tiny_directory, make_group):
    rng = random.Random(11)
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert await train(redis_url, run_name + "-a", alone, tiny_directory, make_group, 0, rng) == 0
    assert await train(redis_url, run_name + "-k", killed, tiny_directory, make_group, KILLS, rng) == KILLS
    last = f"checkpoints/step-{STEPS:06d}"
    for file in ("model.safetensors", "optimizer.safetensors"):
        mine, theirs = load_file(alone / last / file), load_file(killed / last / file)
        assert mine.keys() == theirs.keys()
        assert all(mine[key].equal(theirs[key]) for key in mine), file
    assert figures(killed) == figures(alone)
    assert len(figures(alone)) == STEPS
    assert {path.name for path in (alone / "weights").glob("v*")} == {
        path.name for path in (killed / "weights").glob("v*")
    }
