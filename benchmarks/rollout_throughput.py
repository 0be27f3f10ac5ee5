"""Rollouts beside their own requests replayed on the engine alone: what share of the engine's speed a worker reaches.

    python benchmarks/rollout_throughput.py [--policy DIRECTORY] [--seconds 8] [--in-flight 32] [--rounds 3]

Real services, one process each: the Sokoban server, inference with one torch thread, a Valkey. The worker's own code
plays groups of 8 from a queue that does not run dry. Once the first groups are done, every generation of the next
`seconds` is counted and written down. Then the same requests, in the order in which they were made and with the same
number in flight, are sent over the same route, with nothing else to do; and once more are given to an engine inside
this process. The engine forgets its prompts before each pass. Passes alternate, and each figure is the best of
`rounds`: other work on the machine only ever slows one down.

Without `--policy` a tiny policy with random weights plays. It hardly moves, so most of its prompts are repeated and
cost the engine less than a trained policy's would: the share comes out lower than in a real run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
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
from arlarena.console.broker import Broker
from arlarena.inference.embedded.engine import Engine, Limits
from arlarena.inference.embedded.sampler import Draw
from arlarena.inference.embedded.sequence import Sequence
from arlarena.inference.weights import load_model
from arlarena.proto.stream import Streams
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import Group, GroupTask, Sampling, Task, Trajectory
from arlarena.rollout.policies import EnginePolicy
from arlarena.rollout.runner import Runner
from arlarena.rollout.settings import RolloutSettings
from arlarena.rollout.tokens import Tokens
from arlarena.rollout.worker import Worker
from arlarena.trainer.settings import TinyPolicy
from arlarena.trainer.tiny import create_tiny_policy

GROUP_SIZE, MAX_TOKENS, CONTEXT = 8, 16, 256
ENDLESS = 2000  # groups: more than any pass plays
CONFIG = """
[environment]
name = "sokoban"
[environment.options]
observation = "grid+coordinates"
template = "compact"
[inference]
model = "{policy}"
max_model_len = {context}
"""


@dataclass(frozen=True)
class Request:
    """One generation that was asked for."""

    prompt: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Pass:
    """What one pass did. `cpu_s` is that of this process: of the worker, or of the replaying client."""

    tokens: int
    requests: int
    seconds: float
    cpu_s: float

    @property
    def tokens_per_s(self) -> float:
        """New tokens a second."""
        return self.tokens / self.seconds


class RecordingClient(PolicyClient):
    """The ordinary client, which writes down what it is asked for while `recording`."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.recording = False
        self.requests: list[Request] = []
        self.answers = self.tokens = self.in_flight = 0

    async def generate(self, prompt_ids: Any, sampling: Sampling, *, seed: int, **rest: Any) -> Generation:
        """As the client does it."""
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
    """A service as its own process, with one thread; gives its URL."""
    command = [sys.executable, "-m", *arguments, "--config", str(folder / "run.toml"), "--port", "0"]
    with (folder / f"{arguments[0]}.log").open("w") as log:
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
    answer = await policy.transport.request("POST", "/reset_prefix_cache")
    assert answer.status == 200, answer.body


class Bench:
    """The services and how both kinds of pass are made."""

    def __init__(self, environment_url: str, inference_url: str, redis_url: str, policy: Path, flags: Any) -> None:
        self.environment_url, self.inference_url, self.redis_url = environment_url, inference_url, redis_url
        self.tokens, self.flags = Tokens.load(policy), flags
        self.sampling = Sampling(max_tokens=MAX_TOKENS)
        self.runs = 0
        self.episodes: list[Trajectory] = []

    @contextlib.asynccontextmanager
    async def broker(self) -> AsyncIterator[Streams]:
        """The streams of a run that nobody used yet."""
        self.runs += 1
        async with await Streams.connect(self.redis_url, f"bench-{self.runs}") as streams:
            yield streams

    async def rollouts(self, seconds: float) -> tuple[Pass, list[Request], list[float]]:
        """Play for `seconds` once the first groups are done. Also gives the requests and samples of the number open."""
        settings = RolloutSettings(groups_in_flight=self.flags.in_flight, drain_s=0)
        log = Logger("rollout", "error")
        client = RecordingClient(self.inference_url)
        environments = EnvironmentClient(self.environment_url, batch_window_s=settings.batch_window_s)
        async with client, environments, self.broker() as streams:
            runner = Runner(environments, client, settings, log)
            worker = Worker(
                "w0", streams, runner, lambda s: EnginePolicy(client, self.tokens, s, CONTEXT), settings, log
            )
            await streams.issue(
                [GroupTask(f"g{i}", Task("sokoban", "train", i), GROUP_SIZE, self.sampling) for i in range(ENDLESS)]
            )
            stop = asyncio.Event()
            playing = asyncio.ensure_future(worker.run(stop))
            while worker.tally.completed < self.flags.in_flight // 2:
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
            for entry in await streams.collect(consumer="bench", count=ENDLESS, block_s=1.0):
                if isinstance(entry.item, Group):
                    self.episodes += entry.item.trajectories
            return done, client.requests, in_flight

    async def replay(self, requests: list[Request], in_flight: int) -> Pass:
        """The same requests over the same route, `in_flight` at a time."""
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


def in_process(policy: Path, eos_id: int, requests: list[Request], in_flight: int) -> Pass:
    """The same requests on an engine in this process, `in_flight` at a time, with no wire at all."""
    loaded = load_model(policy)
    slots, finished = threading.Semaphore(in_flight), threading.Semaphore(0)
    done: list[Sequence] = []

    def deliver(news: list[Sequence]) -> None:
        for sequence in news:
            if sequence.finish_reason is not None:
                done.append(sequence)
                slots.release()
                finished.release()

    engine = Engine(loaded.arch, loaded.parameters, loaded.label, Limits(CONTEXT), deliver)
    engine.start()
    deadline = time.monotonic() + 600
    began = time.perf_counter()
    for request in requests:
        slots.acquire()
        draw = Draw(seed=request.seed)
        engine.submit([Sequence(list(request.prompt), draw, MAX_TOKENS, frozenset(), frozenset({eos_id}), deadline)])
    for _ in requests:
        finished.acquire()
    seconds = time.perf_counter() - began
    engine.stop()
    return Pass(sum(len(sequence.tokens) for sequence in done), len(requests), seconds, 0.0)


def figures(name: str, passes: list[Pass]) -> dict[str, Any]:
    best = max(passes, key=lambda one: one.tokens_per_s)
    return {
        f"{name}_tokens_per_s": best.tokens_per_s,
        f"{name}_requests_per_s": best.requests / best.seconds,
        f"{name}_cpu_ms_per_request": 1000 * best.cpu_s / best.requests,
        f"{name}_rounds": [one.tokens_per_s for one in passes],
    }


async def measure(bench: Bench, policy: Path) -> dict[str, Any]:
    flags = bench.flags
    limit = flags.in_flight * GROUP_SIZE
    async with PolicyClient(bench.inference_url) as client, EnvironmentClient(bench.environment_url) as environments:
        await Runner(environments, client, RolloutSettings(), Logger("bench", "error")).wait_ready()
    await bench.rollouts(1.0)  # warms up connections and services
    bench.episodes.clear()
    played, replayed, alone, in_flight = [], [], [], []
    requests: list[Request] = []
    for _ in range(flags.rounds):
        done, requests, seen = await bench.rollouts(flags.seconds)
        played.append(done)
        in_flight += seen
        replayed.append(await bench.replay(requests, limit))
        alone.append(await asyncio.to_thread(in_process, policy, bench.tokens.end_id, requests, limit))
    result = figures("rollout", played) | figures("replay", replayed) | figures("in_process", alone)
    result.pop("in_process_cpu_ms_per_request")  # the engine's own time, in the same process
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
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def run(flags: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = flags.policy or folder / "policy"
        if flags.policy is None:
            create_tiny_policy(policy, TinyPolicy(), seed=0)
        (folder / "run.toml").write_text(CONFIG.format(policy=policy.resolve(), context=CONTEXT))
        with (
            Broker(folder / "broker") as broker,
            service(folder, "arlarena.env_server", "sokoban") as environment,
            service(folder, "arlarena.inference") as inference,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop,
        ):
            bench = Bench(environment, inference, broker.url, policy, flags)
            return loop.run(measure(bench, policy))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--policy", type=Path, help="Hugging Face directory; default: a tiny policy of random weights")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a pass")
    parser.add_argument("--in-flight", type=int, default=32, help="groups in flight")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rollout_throughput.json")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    result = run(flags)
    machine = {"cores": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version()}
    workload = {"seconds": flags.seconds, "group_size": GROUP_SIZE, "groups_in_flight": flags.in_flight}
    record = {
        "workload": {**workload, "max_tokens": MAX_TOKENS, "policy": "given" if flags.policy else "random"},
        "machine": {**machine, "load_before": before},
        **result,
    }
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(json.dumps(rounded(record), indent=2) + "\n")
    print(flags.out.read_text())


if __name__ == "__main__":
    main()
