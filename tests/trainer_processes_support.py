"""Real trainer processes that are fed recorded groups, killed, stopped and resumed, and what they leave behind."""

import asyncio
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

from recordings_support import Recordings, config_of
from safetensors.torch import load_file

from arlarena.proto.stream import Streams

# Length of the undisturbed run that others are compared with.
ALONE_STEPS = 40
INTERRUPTED = 143 << 8  # the wait status of exit code 143
FORKING_TRAINER = Path(__file__).parent / "integration" / "trainer" / "forking_trainer.py"


class Trainers:
    """A process that forks trainers, with torch imported once: it takes seconds to start, and a fork takes none."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, FORKING_TRAINER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._started, self._ended = queue.Queue(), {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    async def start(self, arguments, log):
        """The pid of a new trainer, and a future of its wait status."""
        request = {"arguments": [str(argument) for argument in arguments], "log": str(log)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        pid = await asyncio.to_thread(self._started.get, True, 60)
        return pid, asyncio.wrap_future(self._ended[pid])

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._reader.join(20)
        self._process.stdout.close()

    def _read(self):
        for line in self._process.stdout:
            word, pid, *status = line.split()
            if word == "started":
                self._ended[int(pid)] = Future()
                self._started.put(int(pid))
            else:
                ended = self._ended.pop(int(pid))
                if ended.set_running_or_notify_cancel():
                    ended.set_result(int(status[0]))


def train_arguments(run, name, policy, redis_url, *more):
    """The command line of a trainer on the configuration in `run`."""
    return ["train", "--config", run / "run.toml", "--model", policy, "--run-dir", run, "--run-name", name,
            "--redis-url", redis_url, *more]  # fmt: skip


def prepare(run, steps, **trainer):
    """A run directory with a configuration for recorded groups."""
    run.mkdir(parents=True)
    (run / "run.toml").write_text(config_of(steps, **trainer))


async def train_with_ends(trainers, redis_url, name, run, policy, player, ends, before_resume=lambda: None):
    """Train to the end while `player(streams)` plays. `ends` are (signal, condition, seconds): each ends the trainer
    once, so many seconds after the condition became true; it is then resumed, after `before_resume`. Returns how many
    ends met a living trainer.
    """
    met, waiting, ended = 0, list(ends), None
    async with await Streams.connect(redis_url, name, retry_delay_s=0.05, full_timeout_s=600.0) as streams:
        feeding = asyncio.create_task(player(streams).serve())
        try:
            resume = []
            while True:
                pid, ended = await trainers.start(train_arguments(run, name, policy, redis_url, *resume), run / "log")
                resume = ["--resume"]
                if waiting:
                    number, condition, seconds = waiting.pop(0)
                    if not await _ended_before(ended, condition, seconds):
                        os.kill(pid, number)
                        met += 1
                status = int(await asyncio.wait_for(ended, 100))
                if status == 0:
                    return met
                assert status in (signal.SIGKILL, INTERRUPTED), (run / "log").read_text()[-3000:]
                before_resume()
        finally:
            if ended is not None and not ended.done():
                os.kill(pid, signal.SIGKILL)
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)


def random_ends(run, steps, count, signals, seed):
    """`count` ends at random moments: each some time after a random step, in the order of the steps."""
    rng = random.Random(seed)
    points = sorted(rng.randrange(1, steps) for _ in range(count))
    return [(rng.choice(signals), lambda point=point: steps_of(run) >= point, rng.uniform(0, 0.2)) for point in points]


def steps_of(run):
    """How many steps the run has recorded."""
    file = run / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


async def _ended_before(ended, condition, seconds):
    """Whether the trainer ends by itself before `seconds` have passed since the condition became true."""
    while not condition():
        if ended.done():
            return True
        await asyncio.sleep(0.01)
    return bool((await asyncio.wait([ended], timeout=seconds))[0])


def recorded(run, make_group):
    """A player that answers from recordings, for `train_with_ends`."""
    return lambda streams: Recordings(streams, run / "weights", make_group)


def checkpoint_at(run, steps):
    """The directory of the checkpoint of that step."""
    (found,) = run.glob(f"checkpoints/step-{steps:06d}*")
    return found


def records(run):
    """What every step came to, without times."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "seconds" not in k and "per_s" not in k} for line in lines]


def state_of(run, steps):
    """The state of the checkpoint of that step."""
    return json.loads((checkpoint_at(run, steps) / "state.json").read_text())


def assert_same_end(one, other, steps):
    """Weights, optimiser, metrics and lineage of two runs are equal, bit for bit."""
    for file in ("model.safetensors", "optimizer.safetensors"):
        mine, theirs = (load_file(checkpoint_at(run, steps) / file) for run in (one, other))
        assert mine.keys() == theirs.keys()
        assert all(mine[key].equal(theirs[key]) for key in mine), file
    assert records(one) == records(other)
    assert [record["step"] for record in records(one)] == list(range(1, steps + 1))
    ledgers = [state_of(run, steps)["ledger"] for run in (one, other)]
    assert ledgers[0]["lineage"] == ledgers[1]["lineage"]
    assert ledgers[0]["open"] == ledgers[1]["open"] == {}
