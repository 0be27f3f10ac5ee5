"""Compares the speed of this checkout with that of an older checkout: the ratio, with its 95 % confidence interval.

    git worktree add ../old COMMIT && python -m benchmarks.old_and_new ../old [--part sandbox …] [--pairs 60]

A side is a process with one thread that measures one checkout. It imports only the `arlarena` packages of its checkout.
For most parts, both sides use the benchmark modules of this checkout, so both sides have the same load. For the parts
in `OWN_MODULES`, each side uses the benchmark modules of its own checkout. The reason is that these modules call Python
interfaces that differ between checkouts.

In each pair, first one side measures, then the other side. The order alternates from pair to pair. The speed of a
machine changes within seconds, so many short pairs give a narrower interval than a few long pairs. The ratio of a pair
is the rate of this checkout divided by the rate of the older checkout. The result is the median of the ratios. The
interval is computed by bootstrap. The parts:

* `environment-http`, `environment-batch`, `environment-websocket`: steps per second of a Sokoban server.
* `rollout`: new tokens per second of a worker with a real broker, environment server and policy server.
* `push-shared`, `push-http`: pushes per second; a push lasts from the optimiser step to the first token of the new
  version.
* `sandbox`: executions per second of a program that uses numpy and sympy.
* `update`: optimiser steps per second of the learner.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LEAST_RATIO = 0.90
OWN_MODULES = ("rollout", "push-shared", "push-http", "update")
TOKEN = "token of the benchmark"
TREE = "ARLARENA_BENCHMARK_TREE"  # environment variable with the folder of the side's checkout
Measure = Callable[[], float]


def import_first(*names: str) -> Any:
    """Import and return the first of these modules that exists in the measured checkout.

    In older checkouts, some modules have other names.

    Raises:
        SystemExit: the checkout has none of these modules.
    """
    for name in names:
        with contextlib.suppress(ModuleNotFoundError):
            module = import_module(name)
            if Path(str(module.__file__)).is_relative_to(os.environ[TREE]):
                return module
    raise SystemExit(f"error: {os.environ[TREE]} has none of these modules: {', '.join(names)}")


@contextlib.contextmanager
def environment(protocol: str) -> Iterator[Measure]:
    """Start a Sokoban server. Yield a function that measures its steps per second.

    `protocol`: "http" (one step per request), "batch" or "websocket".
    """
    from benchmarks.env_server import speed

    rate, sessions = {
        "http": (http_rate, 16),
        "batch": (speed.batch_rate, 256),
        "websocket": (speed.websocket_rate, 64),
    }[protocol]
    with speed.our_server(1) as url:
        yield lambda: asyncio.run(rate(url, sessions, 0.5))


async def http_rate(url: str, sessions: int, seconds: float) -> float:
    """Return the steps per second over `/step`, with one step per request. Each session sends one request at a time."""
    import aiohttp

    from benchmarks.env_server.speed import post

    async def play(session: aiohttp.ClientSession, name: str, seed: int, ends: float) -> int:
        steps = 0
        while time.perf_counter() < ends:
            action = {"text": ("up", "left", "down", "right")[steps % 4]}
            reply = await post(session, url + "/step", {"session_id": name, "action": action})
            steps += 1
            if reply["done"]:
                await post(session, url + "/reset", {"session_id": name, "seed": seed})
        return steps

    async with aiohttp.ClientSession() as session:
        opened = {"count": sessions, "reset": [{"seed": seed} for seed in range(sessions)]}
        names = [one["session_id"] for one in (await post(session, url + "/v1/sessions", opened))["sessions"]]
        ends = time.perf_counter() + seconds
        counts = await asyncio.gather(*(play(session, name, seed, ends) for seed, name in enumerate(names)))
        for name in names:
            async with session.delete(f"{url}/v1/sessions/{name}") as reply:
                assert reply.status == 204, reply.status
        return sum(counts) / seconds


@contextlib.contextmanager
def rollout() -> Iterator[Measure]:
    """Start a broker, an environment server and a policy server. Yield a function that measures a rollout worker.

    The function returns new tokens per second.
    """
    import uvloop

    settings = import_first("arlarena.trainer.policy_settings", "arlarena.trainer.settings")
    bench = import_first("benchmarks.rollout.speed", "rollout_throughput")
    tiny = import_first("arlarena.trainer.model.tiny", "arlarena.trainer.tiny")
    broker_class = import_first("arlarena.console.launch.broker", "arlarena.console.broker").Broker
    flags = SimpleNamespace(in_flight=16, trace=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vocabulary = {}  # in older checkouts, the trainer contains the vocabulary of Sokoban
        if hasattr(tiny, "pieces_of"):
            from arlarena.environment.registry import load

            vocabulary["pieces"] = tiny.pieces_of(load("benchmark", "sokoban", {}).info)
        tiny.create_tiny_policy(folder / "policy", settings.TinyPolicy(max_positions=1024), seed=0, **vocabulary)
        config = bench.CONFIG.format(policy=folder / "policy", context=256, cache_mb=256, environment="sokoban")
        (folder / "run.toml").write_text(config + bench.SOKOBAN_OPTIONS)
        with (
            broker_class(folder / "broker") as broker,
            bench.service(folder, *bench.SOKOBAN.command) as environment_url,
            bench.service(folder, "-m", "arlarena.inference") as inference_url,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop,
        ):
            services = bench.Bench(environment_url, inference_url, broker.url, folder / "policy", flags)
            yield lambda: float(loop.run(services.rollouts(3.0))[0].tokens_per_s)


@contextlib.contextmanager
def push(transport: str) -> Iterator[Measure]:
    """Start a policy server with a model of 17 MB. Yield a function that measures pushes per second.

    A push lasts from the optimiser step to the first token of the new version. `transport`: "shared" or "http".
    """
    import aiohttp

    bench = import_first("benchmarks.weights.speed", "weight_push")
    policy_server = import_first("benchmarks.support.policy_server", "inference_processes").policy_server
    transports = import_first("arlarena.trainer.weights.transports", "arlarena.trainer.transports")
    versions = import_first("arlarena.trainer.weights.versions", "arlarena.trainer.versions")

    with tempfile.TemporaryDirectory() as name, asyncio.Runner() as loop:
        folder = Path(name)
        server_folder = folder / "weights" if transport == "shared" else folder / "received"
        server_folder.mkdir()
        model = bench.make_model(folder / "model", 256)
        store = versions.VersionStore(folder / "weights", folder / "model", "bench", keep=3)
        settings = {"model": str(folder / "model"), "weights_root": str(server_folder), "admin_token": TOKEN}
        with policy_server(folder, **settings) as (url, _):
            carrier = transports.SharedDirectory() if transport == "shared" else transports.Http(full_every=20)
            publisher = publisher_of(bench, url, carrier)
            trainer, steps = bench.Trainer(model, store, publisher), iter(range(1, 10_000))

            async def seconds_of_push() -> float:
                step = next(steps)
                trainer.learn(step)
                begun = time.perf_counter()
                version = trainer.write(step)
                await publisher.push(version)
                async with aiohttp.ClientSession() as session:
                    await bench.first_token(session, url, str(version.version))
                store.forget_old()
                return time.perf_counter() - begun

            yield lambda: 1 / loop.run(seconds_of_push())


def publisher_of(bench: Any, url: str, transport: Any) -> Any:
    """Create the publisher that pushes weights to the policy server at `url`.

    `bench` is the module `benchmarks.weights.speed` of the measured checkout. If it has a function `publisher_of`, this
    function is used. Older versions of `bench` have no such function.
    """
    if hasattr(bench, "publisher_of"):
        return bench.publisher_of(url, transport, TOKEN)
    return bench.Publisher([url], transport, token=TOKEN, patience_s=30, log=bench.Logger("bench"))


@contextlib.contextmanager
def sandbox() -> Iterator[Measure]:
    """Start a sandbox. Yield a function that measures executions per second of a program, two at the same time."""
    from benchmarks.sandbox.program import PROGRAM, rate

    module = import_first("arlarena.sandbox.forks", "arlarena.env_server.sandbox.forks")
    with contextlib.closing(module.ForkSandbox(module.ForkSettings())) as forks:
        yield lambda: rate(lambda: forks.run(PROGRAM).stdout, 2.0, 2)


@contextlib.contextmanager
def update() -> Iterator[Measure]:
    """Create a learner. Yield a function that measures optimiser steps per second, on rows of different lengths."""
    bench = import_first("benchmarks.trainer.speed", "trainer")
    learner, rows = bench.Ours(bench.model_of(bench.VOCABULARY)), bench.rows_of("uniform")
    yield lambda: 1 / bench.timed(lambda: learner.update(rows))


PARTS: dict[str, Callable[[], contextlib.AbstractContextManager[Measure]]] = {
    "environment-http": lambda: environment("http"),
    "environment-batch": lambda: environment("batch"),
    "environment-websocket": lambda: environment("websocket"),
    "rollout": rollout,
    "push-shared": lambda: push("shared"),
    "push-http": lambda: push("http"),
    "sandbox": sandbox,
    "update": update,
}


def run_side(part: str) -> None:
    """Measure one part of one checkout. This function is the main function of the process that `side` starts.

    It first prints the path of an imported `arlarena` module. Then it measures once for each line of standard input,
    and prints the rate.
    """
    import torch

    import arlarena.proto.config as package

    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    with PARTS[part]() as measure:
        measure()  # warm-up of connections, caches and imports
        print(package.__file__, file=answers, flush=True)
        for _ in sys.stdin:
            print(measure(), file=answers, flush=True)


@contextlib.contextmanager
def side(tree: Path, part: str) -> Iterator[Measure]:
    """Start a process that measures the part `part` of the checkout `tree`. Yield a function that measures once.

    Raises:
        SystemExit: the process fails, or it imports packages of another checkout.
    """
    packages = [str(one.parent) for one in tree.glob("**/pyproject.toml") if (one.parent / "arlarena").is_dir()]
    modules = tree if part in OWN_MODULES else ROOT
    # In older checkouts, the benchmarks are top-level modules in the folder `benchmarks`.
    path = os.pathsep.join([*packages, str(modules), *([] if modules == ROOT else [str(tree / "benchmarks")])])
    variables = os.environ | {TREE: str(tree), "PYTHONPATH": path}
    command = [sys.executable, "-P", __file__, "--answer", part]
    with subprocess.Popen(
        command, env=variables | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout

        def line() -> str:
            if not (text := stdout.readline().strip()):
                raise SystemExit(f"error: {part} of {tree} ended with exit status {process.wait()}")
            return text

        def measure() -> float:
            stdin.write("\n")
            stdin.flush()
            return float(line())

        if not Path(origin := line()).is_relative_to(tree):
            raise SystemExit(f"error: the process for {tree} imported {origin}, which is not in that checkout")
        yield measure
        stdin.close()


def compare(old: Path, part: str, pairs: int) -> dict[str, Any]:
    """Compare one part of this checkout with the checkout `old`.

    Returns the median of the ratios, its 95 % confidence interval, and the number of pairs.
    """
    with side(old, part) as before, side(ROOT, part) as after:
        ratios = []
        for number in range(pairs):
            if number % 2:
                first, second = before(), after()
                ratios.append(second / first)
            else:
                second, first = after(), before()
                ratios.append(second / first)
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=pairs)) for _ in range(10_000))
    interval = [round(medians[250], 3), round(medians[9749], 3)]
    return {"ratio": round(statistics.median(ratios), 3), "interval": interval, "pairs": pairs}


def main() -> int:
    """Compare all parts. Return 0 if the lower bound of each interval is at least `LEAST_RATIO`, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, nargs="?", help="the older checkout")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--answer", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    if flags.answer:
        run_side(flags.answer)
        return 0
    if not flags.old or not (flags.old / "proto").is_dir():
        parser.error("the argument must be the folder of an older checkout")
    from benchmarks.support.results import finish

    results = {}
    for part in flags.part:
        results[part] = compare(flags.old.resolve(), part, flags.pairs)
        print(part, results[part], file=sys.stderr, flush=True)
    passed = all(result["interval"][0] >= LEAST_RATIO for result in results.values())
    return finish({"parts": results, "least_ratio": LEAST_RATIO, "passed": passed}, flags.out)


if __name__ == "__main__":
    sys.exit(main())
