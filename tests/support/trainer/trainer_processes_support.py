"""Starts, kills, stops and resumes real trainer processes on recorded groups, and reads their results."""

import asyncio
import json
import os
import random
import signal
import subprocess

from safetensors.torch import load_file
from support.processes import forking_support
from support.trainer.recordings_support import Recordings, config_of

from arlarena.proto.streams.queue import Streams

# Number of steps of the run without interruptions. Other runs are compared with this run.
ALONE_STEPS = 40
# Exit statuses of an interrupted trainer. -SIGTERM: the trainer had not installed its signal handler yet.
ENDED = (-signal.SIGKILL, -signal.SIGTERM, 143)


async def start_trainer(arguments, log):
    """Start a trainer process. Return its process id, and a task with its exit status (negative for a signal).

    If the trainer still runs at the end of the test, it is killed.
    """
    command = ["arlarena.trainer", *map(str, arguments)]
    with log.open("a") as file:
        process = forking_support.popen(command, stdout=file, stderr=subprocess.STDOUT)
    ended = asyncio.create_task(process.ended())
    await asyncio.sleep(0)  # start the task now: if it were cancelled before its start, it would not kill the process
    return process.pid, ended


def train_arguments(run, name, policy, redis_url, *more):
    """Return the arguments of a trainer with the configuration in `run`."""
    return ["train", "--config", run / "run.toml", "--model", policy, "--run-dir", run, "--run-name", name,
            "--redis-url", redis_url, *more]  # fmt: skip


def prepare(run, steps, **trainer):
    """Create a run directory with a configuration for recorded groups."""
    run.mkdir(parents=True)
    (run / "run.toml").write_text(config_of(steps, **trainer))


async def train_with_ends(redis_url, name, run, policy, player, ends, before_resume=lambda: None):
    """Train to the end while `player(streams)` plays. Interrupt and resume the trainer during the run.

    Args:
        ends: interruptions (signal, condition, seconds). The signal is sent `seconds` after the condition became true.
        before_resume: called before each resume.

    Returns the number of signals that reached a running trainer.
    """
    met, waiting, ended = 0, list(ends), None
    async with await Streams.connect(redis_url, name, retry_delay_s=0.05, full_timeout_s=600.0) as streams:
        feeding = asyncio.create_task(player(streams).serve())
        try:
            resume = []
            while True:
                pid, ended = await start_trainer(train_arguments(run, name, policy, redis_url, *resume), run / "log")
                resume = ["--resume"]
                if waiting:
                    number, condition, seconds = waiting.pop(0)
                    if not await _ended_before(ended, condition, seconds):
                        os.kill(pid, number)
                        met += 1
                status = await asyncio.wait_for(ended, 100)
                if status == 0:
                    return met
                assert status in ENDED, (run / "log").read_text()[-3000:]
                before_resume()
        finally:
            if ended is not None:
                ended.cancel()
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)


def random_ends(run, steps, count, signals, seed):
    """Return `count` interruptions for `train_with_ends`: each up to 0.2 s after a random step, sorted by step."""
    rng = random.Random(seed)
    points = sorted(rng.randrange(1, steps) for _ in range(count))
    return [(rng.choice(signals), lambda point=point: steps_of(run) >= point, rng.uniform(0, 0.2)) for point in points]


def steps_of(run):
    """Return the number of recorded steps of a run."""
    file = run / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


async def _ended_before(ended, condition, seconds):
    """Wait until `seconds` after the condition became true. Return whether the trainer ended before."""
    while not condition():
        if ended.done():
            return True
        await asyncio.sleep(0.01)
    return bool((await asyncio.wait([ended], timeout=seconds))[0])


def recorded(run, make_group):
    """Return a player with recorded groups, for `train_with_ends`."""
    return lambda streams: Recordings(streams, run / "weights", make_group)


def checkpoint_at(run, steps):
    """Return the directory of the checkpoint of a step."""
    (result,) = run.glob(f"checkpoints/step-{steps:06d}*")
    return result


def records(run):
    """Return the metrics of each step, without times and rates."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "seconds" not in k and "per_s" not in k} for line in lines]


def state_of(run, steps):
    """Return the state in the checkpoint of a step."""
    return json.loads((checkpoint_at(run, steps) / "state.json").read_text())


def assert_same_end(one, other, steps):
    """Assert that weights, optimiser state, metrics and lineage of two runs are equal, bit for bit."""
    for file in ("model.safetensors", "optimizer.safetensors"):
        first, second = (load_file(checkpoint_at(run, steps) / file) for run in (one, other))
        assert first.keys() == second.keys()
        assert all(first[key].equal(second[key]) for key in first), file
    assert records(one) == records(other)
    assert [record["step"] for record in records(one)] == list(range(1, steps + 1))
    ledgers = [state_of(run, steps)["ledger"] for run in (one, other)]
    assert ledgers[0]["lineage"] == ledgers[1]["lineage"]
    assert ledgers[0]["open"] == ledgers[1]["open"] == {}
