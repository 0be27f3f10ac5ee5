"""Compares the speed of a rollout worker with the speed of the engine alone, for the same requests.

    python -m benchmarks.rollout.speed [--trace] [--policy DIRECTORY] [--seconds 8] [--in-flight 32] [--rounds 3]

The services are real, each in a separate process: an environment server, a policy server with one torch thread, and a
broker. Each round has three passes:

* `rollout`: the worker plays groups of 8 episodes from a queue that never becomes empty. After the first groups have
  ended, the benchmark counts and records all requests of the next `seconds`.
* `replay`: a client sends the recorded requests to the policy server, in the same order and with the same number of
  concurrent requests. The client does nothing else.
* `in_process`: an engine in this process answers the recorded requests.

Before each pass, the prefix cache of the engine is cleared. For each kind of pass, the result is the fastest pass,
because other programs can only slow a pass down.

The environment is Sokoban, which has short prompts. With `--trace`, the environment is `trace_environment.py`, which
has growing prompts. Without `--policy`, a tiny policy with random weights plays. This policy rarely moves in the room,
so most of its prompts are repetitions. The engine needs less time for repeated prompts than for the prompts of a
trained policy. Relative to the engine, the worker is therefore slower than in a real run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import uvloop

from arlarena.client.environments import EnvironmentClient
from arlarena.client.policy import Generation, PolicyClient
from arlarena.console.launch.broker import Broker
from arlarena.environment.registry import load
from arlarena.inference.embedded.engine import Engine, EngineLimits
from arlarena.inference.embedded.sampler import RowSampling
from arlarena.inference.embedded.sequence import Sequence
from arlarena.inference.embedded.weights.loading import load_model
from arlarena.proto.streams.queue import Streams
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import Group, GroupTask, Sampling, Task, Trajectory
from arlarena.rollout.policies import EnginePolicy
from arlarena.rollout.runner import Runner
from arlarena.rollout.settings import RolloutSettings
from arlarena.rollout.tokens import Tokens
from arlarena.rollout.worker import Worker
from arlarena.trainer.model.tiny import create_tiny_policy, pieces_of
from arlarena.trainer.policy_settings import TinyPolicy
from benchmarks.support.results import finish

GROUP_SIZE, CACHE_MB = 8, 1024
MIN_SHARE = 0.9  # required speed of the rollouts relative to the replay, with --trace
ISSUED_GROUPS = 2000  # more than a pass can play
CONFIG = """
[inference]
model = "{policy}"
max_model_len = {context}
prefix_cache_mb = {cache_mb}
[environment]
name = "{environment}"
"""


@dataclass(frozen=True)
class Workload:
    """The environment to play.

    Attributes:
        environment: name of the environment in the table [environment].
        command: arguments of Python that start the environment server.
        config: options of the environment, as TOML.
        context: maximum number of tokens of a prompt with its response.
        max_tokens: maximum number of tokens of a response.
    """

    environment: str
    command: tuple[str, ...]
    config: str
    context: int
    max_tokens: int


SOKOBAN_OPTIONS = '[environment.options]\nobservation = "grid+coordinates"\ntemplate = "compact"\n'
SOKOBAN = Workload("sokoban", ("-m", "arlarena.env_server", "sokoban"), SOKOBAN_OPTIONS, 256, 16)
TRACE_MODULE = "benchmarks.rollout.trace_environment"
TRACE = Workload(TRACE_MODULE, ("-m", "arlarena.env_server", TRACE_MODULE), "", 1024, 24)


@dataclass(frozen=True)
class Request:
    """One recorded generation request."""

    prompt: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Pass:
    """The result of one pass. `cpu_s`: CPU time of this process, which runs the worker or the client of `replay`."""

    tokens: int
    requests: int
    seconds: float
    cpu_s: float

    @property
    def tokens_per_s(self) -> float:
        """New tokens per second."""
        return self.tokens / self.seconds


class RecordingClient(PolicyClient):
    """A client of the policy server. While `recording` is true, it records its requests and counts the replies."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.recording = False
        self.requests: list[Request] = []
        self.answers = self.tokens = self.in_flight = 0

    async def generate(self, prompt_ids: Any, sampling: Sampling, *, seed: int, **rest: Any) -> Generation:
        """Generate a response, and record the request if `recording` is true. See `PolicyClient.generate`."""
        if self.recording:
            self.requests.append(Request(tuple(prompt_ids), seed))
        self.in_flight += 1
        try:
            generation = await super().generate(prompt_ids, sampling, seed=seed, **rest)
        finally:
            self.in_flight -= 1
        if self.recording:
            self.answers += 1
            self.tokens += len(generation.token_ids)
        return generation


@contextlib.contextmanager
def service(folder: Path, *arguments: str) -> Iterator[str]:
    """Start a service in a separate process with one thread. Yield its URL. `arguments`: arguments of Python."""
    command = [sys.executable, *arguments, "--config", str(folder / "run.toml"), "--port", "0"]
    with (folder / f"{Path(arguments[-1]).name}.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
    finally:
        process.terminate()
        process.wait(20)


async def forget_prompts(policy: PolicyClient) -> None:
    """Clear the prefix cache of the policy server."""
    answer = await policy.transport.request("POST", "/reset_prefix_cache")
    assert answer.status == 200, answer.body


class Bench:
    """The running services, with functions for the passes `rollout` and `replay`."""

    def __init__(self, environment_url: str, inference_url: str, redis_url: str, policy: Path, flags: Any) -> None:
        self.environment_url, self.inference_url, self.redis_url = environment_url, inference_url, redis_url
        self.tokens, self.flags = Tokens.load(policy), flags
        self.workload = workload_of(flags)
        self.sampling = Sampling(max_tokens=self.workload.max_tokens)
        self.runs = 0
        self.episodes: list[Trajectory] = []

    @contextlib.asynccontextmanager
    async def broker(self) -> AsyncIterator[Streams]:
        """Connect to the broker. Yield the streams of a new run."""
        self.runs += 1
        async with await Streams.connect(self.redis_url, f"bench-{self.runs}") as streams:
            yield streams

    async def rollouts(self, seconds: float) -> tuple[Pass, list[Request], list[float]]:
        """Do a pass `rollout`: play for `seconds` after the first groups have ended.

        Returns (result of the pass, recorded requests, samples of the number of concurrent requests).
        """
        settings = RolloutSettings(groups_in_flight=self.flags.in_flight, drain_s=0)
        log = Logger("rollout", "error")
        client, work = RecordingClient(self.inference_url), self.workload
        environments = EnvironmentClient(self.environment_url, batch_window_s=settings.batch_window_s)
        async with client, environments, self.broker() as streams:
            runner = Runner(environments, client, settings, log)
            worker = Worker(
                "w0", streams, runner, lambda s: EnginePolicy(client, self.tokens, s, work.context), settings, log
            )
            tasks = [Task(work.environment, "train", i) for i in range(ISSUED_GROUPS)]
            await streams.issue([GroupTask(f"g{i}", task, GROUP_SIZE, self.sampling) for i, task in enumerate(tasks)])
            stop = asyncio.Event()
            playing = asyncio.ensure_future(worker.run(stop))
            while worker.counters.completed < self.flags.in_flight // 2:
                assert not playing.done(), playing.exception()
                await asyncio.sleep(0.01)
            await forget_prompts(client)
            in_flight = []
            client.recording, cpu, began = True, time.process_time(), time.perf_counter()
            while time.perf_counter() - began < seconds:
                assert not playing.done(), playing.exception()
                in_flight.append(float(client.in_flight))
                await asyncio.sleep(0.05)
            client.recording, passed = False, time.perf_counter() - began
            done = Pass(client.tokens, client.answers, passed, time.process_time() - cpu)
            stop.set()
            await playing
            for entry in await streams.collect(consumer="bench", count=ISSUED_GROUPS, block_s=1.0):
                if isinstance(entry.item, Group):
                    self.episodes += entry.item.trajectories
            return done, client.requests, in_flight

    async def replay(self, requests: list[Request], in_flight: int) -> Pass:
        """Do a pass `replay`: send recorded requests to the policy server, with `in_flight` concurrent requests."""
        async with PolicyClient(self.inference_url) as client:
            await forget_prompts(client)
            waiting, tokens = iter(requests), 0

            async def send() -> None:
                nonlocal tokens
                for request in waiting:
                    generation = await client.generate(request.prompt, self.sampling, seed=request.seed)
                    tokens += len(generation.token_ids)

            cpu, began = time.process_time(), time.perf_counter()
            await asyncio.gather(*(send() for _ in range(in_flight)))
            return Pass(tokens, len(requests), time.perf_counter() - began, time.process_time() - cpu)


def workload_of(flags: Any) -> Workload:
    return TRACE if flags.trace else SOKOBAN


class InProcess:
    """An engine in this process. It gets requests by function calls, without a network."""

    def __init__(self, policy: Path, eos_id: int, work: Workload) -> None:
        loaded = load_model(policy)
        self._work, self._eos = work, frozenset({eos_id})
        self._done: list[Sequence] = []
        self._finished = threading.Semaphore(0)
        self._slots = threading.Semaphore(0)
        limits = EngineLimits(work.context, cache_bytes=CACHE_MB << 20)
        self.engine = Engine(loaded.arch, loaded.parameters, loaded.label, limits, self._deliver)

    def _deliver(self, news: list[Sequence]) -> None:
        for sequence in news:
            if sequence.finish_reason is not None:
                self._done.append(sequence)
                self._slots.release()
                self._finished.release()

    def replay(self, requests: list[Request], in_flight: int) -> Pass:
        """Do a pass `in_process`: generate responses to recorded requests, with `in_flight` concurrent requests."""
        self.engine.call(self.engine.forget_prompts).result()
        self._done = []
        self._slots = threading.Semaphore(in_flight)
        deadline = time.monotonic() + 600
        began = time.perf_counter()
        for request in requests:
            self._slots.acquire()
            draw, max_tokens = RowSampling(seed=request.seed), self._work.max_tokens
            self.engine.submit([Sequence(list(request.prompt), draw, max_tokens, frozenset(), self._eos, deadline)])
        for _ in requests:
            self._finished.acquire()
        seconds = time.perf_counter() - began
        return Pass(sum(len(sequence.tokens) for sequence in self._done), len(requests), seconds, 0.0)


def summary(name: str, passes: list[Pass]) -> dict[str, Any]:
    """Return the speeds of the fastest pass, and the tokens per second of all passes. `name`: prefix of the keys."""
    best = max(passes, key=lambda one: one.tokens_per_s)
    return {
        f"{name}_tokens_per_s": best.tokens_per_s,
        f"{name}_requests_per_s": best.requests / best.seconds,
        f"{name}_cpu_ms_per_request": 1000 * best.cpu_s / best.requests,
        f"{name}_rounds": [one.tokens_per_s for one in passes],
    }


async def measure(bench: Bench, policy: Path) -> dict[str, Any]:
    """Run the passes of all rounds. Return the speeds, and facts about the requests and episodes.

    Raises:
        SystemExit: the policy server did not reply within the duration of a pass.
    """
    flags = bench.flags
    limit = flags.in_flight * GROUP_SIZE
    async with PolicyClient(bench.inference_url) as client, EnvironmentClient(bench.environment_url) as environments:
        await Runner(environments, client, RolloutSettings(), Logger("bench", "error")).wait_ready()
    own = InProcess(policy, bench.tokens.end_id, bench.workload)
    own.engine.start()
    _, requests, _ = await bench.rollouts(2.0)  # warms up connections and services
    await asyncio.to_thread(own.replay, requests, limit)
    bench.episodes.clear()
    played, replayed, alone, in_flight = [], [], [], []
    for _ in range(flags.rounds):
        done, requests, seen = await bench.rollouts(flags.seconds)
        if not done.requests:
            raise SystemExit(f"error: no reply within {flags.seconds:g} s; choose a larger number of --seconds")
        played.append(done)
        in_flight += seen
        replayed.append(await bench.replay(requests, limit))
        alone.append(await asyncio.to_thread(own.replay, requests, limit))
    own.engine.stop()
    result = summary("rollout", played) | summary("replay", replayed) | summary("in_process", alone)
    result.pop("in_process_cpu_ms_per_request")  # not comparable: it would include the CPU time of the engine
    episodes = bench.episodes
    return result | {
        "share_of_replay": result["rollout_tokens_per_s"] / result["replay_tokens_per_s"],
        "share_of_in_process": result["rollout_tokens_per_s"] / result["in_process_tokens_per_s"],
        "mean_in_flight": sum(in_flight) / len(in_flight),
        "distinct_prompts": len({request.prompt for request in requests}),
        "requests": len(requests),
        "success": sum(one.success for one in episodes) / len(episodes),
        "turns_per_episode": sum(len(one.turns) for one in episodes) / len(episodes),
    }


def rounded(value: Any) -> Any:
    """Return a JSON value with all floats rounded to 4 significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def run(flags: Any) -> dict[str, Any]:
    """Create a policy if `--policy` is not given, start the services, and measure. Return the results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = flags.policy or folder / "policy"
        if flags.policy is None:
            pieces = pieces_of(load("benchmark", "sokoban", {}).info)
            create_tiny_policy(policy, TinyPolicy(max_positions=1024), seed=0, pieces=pieces)
        work = workload_of(flags)
        config = CONFIG.format(
            policy=policy.resolve(), context=work.context, cache_mb=CACHE_MB, environment=work.environment
        )
        (folder / "run.toml").write_text(config + work.config)
        with (
            Broker(folder / "broker") as broker,
            service(folder, *work.command) as environment,
            service(folder, "-m", "arlarena.inference") as inference,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop,
        ):
            bench = Bench(environment, inference, broker.url, policy, flags)
            return loop.run(measure(bench, policy))


def main() -> int:
    """Measure and write the result. With `--trace`, return 1 if the rollouts are too slow (`MIN_SHARE`), else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--trace", action="store_true", help="play the environment with growing prompts instead of Sokoban"
    )
    parser.add_argument(
        "--policy", type=Path, help="model in Hugging Face format; default: a tiny policy with random weights"
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="duration of the rollout pass")
    parser.add_argument("--in-flight", type=int, help="concurrent groups; default 32, with --trace 8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    flags.in_flight = flags.in_flight or (8 if flags.trace else 32)
    torch.set_num_threads(1)
    workload = {
        "environment": workload_of(flags).environment,
        "policy": "given" if flags.policy else "random",
        "seconds": flags.seconds,
        "group_size": GROUP_SIZE,
        "groups_in_flight": flags.in_flight,
    }
    result: dict[str, Any] = {"workload": workload, "load_before": os.getloadavg()[0]} | run(flags)
    result["passed"] = not flags.trace or result["share_of_replay"] >= MIN_SHARE
    return finish(rounded(result), flags.out)


if __name__ == "__main__":
    sys.exit(main())
