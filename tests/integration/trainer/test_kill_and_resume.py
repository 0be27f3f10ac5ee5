"""A trainer that is fed recorded groups, killed at random points with SIGKILL and resumed, ends bitwise where one that
was left alone ends: weights, optimiser and metrics.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from recordings_support import Recordings, config_of
from safetensors.torch import load_file

from arlarena.proto.stream import Streams
from arlarena.trainer.diagnostics import MetricsFile

KILLS, STEPS = 20, 240


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
    config.write_text(config_of(STEPS))
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
