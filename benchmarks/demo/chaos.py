"""Injects faults while a small version of the demo trains, and checks that all groups and rewards are correct.

    python -m benchmarks.demo.chaos --steps 120 --kills 30 --out benchmarks/results/chaos.json

`arlarena up` trains with two workers. The workers connect to the environment server and to the policy server through
two proxies in this script. During the training, the script injects these faults:

* `--kills` times, it kills a random process with SIGKILL: broker, environment server, policy server, worker or trainer.
* Twice, it damages the newest checkpoint and kills the trainer. The trainer must resume from an older checkpoint.
* For 15 s, the memory of Redis is full (`maxmemory`).
* For a minute, 30 % of the workers' requests to the environment server fail. Later, for another minute, 30 % of the
  workers' requests to the policy server fail. `faulty_proxy.py` describes the kinds of failures.

After the run, the script checks these claims:

* The exit status of the run is 0.
* The lineage (the trainer's record of the outcome of each group) contains every issued group once.
* Each group with the outcome "trained" in the lineage is recorded at exactly one step. No other group is recorded.
* All recorded episodes have the same rewards, validity marks, score and end when they are played again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
from redis.asyncio import Redis

from arlarena.console.launch import pipeline
from arlarena.console.launch.child import Address, AnyAddress, ProcessSpec
from arlarena.console.launch.commands import Commands
from benchmarks.demo.chaos_checks import json_lines, lineage_problems, reward_problems
from benchmarks.demo.faulty_proxy import Proxy
from benchmarks.support.paths import ROOT
from benchmarks.support.ports import free_port
from benchmarks.support.results import finish

PROXIES = "ARLARENA_CHAOS_PROXIES"  # variable with the ports of the proxies: environment server, policy server
CONFIG = ROOT / "configs" / "demo.toml"
FAULT_RATE = 0.3  # share of the requests that fail
WINDOW_S = 60.0  # seconds for which requests to a service fail
FULL_S = 15.0  # seconds for which the memory of Redis is full
DAMAGES = 2  # number of damaged checkpoints
# The processes to kill: name → words. A process has this name if, for each of the words, an argument of its command
# line begins with the word. `Chaos.find` finds the broker by its process name instead.
VICTIMS = {
    "broker": ("--appendonly",),
    "environment": ("arlarena.env_server",),
    "inference": ("arlarena.inference",),
    "trainer": ("arlarena.trainer", "train"),
    "worker 0": ("arlarena.rollout", "worker", "worker-0-"),
    "worker 1": ("arlarena.rollout", "worker", "worker-1-"),
}
SMALL = (
    "policy.tiny.layers=2", "policy.tiny.hidden=64", "clone.validation=16", "trainer.recipe_overrides.filter=none",
    "evaluation.count=32", "evaluation.episodes=1", "trainer.groups_per_step=8",
    "trainer.minibatch_groups=4", "trainer.record_groups_every=1", "trainer.max_minutes=600",
    "trainer.reissue_after_s=10", "rollout.lease_ttl_s=4", "rollout.service_retry_timeout_s=300",
    "console.workers=2", "console.restarts=500", "console.backoff_s=0.2", "console.backoff_max_s=1",
)  # fmt: skip


@dataclass
class Chaos:
    """A training run, and the faults that are injected into it.

    Attributes:
        run: run directory.
        launcher: process of `arlarena up`.
        steps: number of training steps.
        redis_port: port of the broker.
        proxies: service ("environment" or "inference") → proxy between workers and service.
        rng: source of all random choices.
        killed: process → number of kills.
        damaged: names of the damaged checkpoints.
        windows: fault → duration in seconds, for finished faults.
        full: whether the memory of Redis is full now.
    """

    run: Path
    launcher: asyncio.subprocess.Process
    steps: int
    redis_port: int
    proxies: dict[str, Proxy]
    rng: random.Random
    killed: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)
    windows: dict[str, float] = field(default_factory=dict)
    full: bool = False

    def done(self) -> int:
        """Return the number of finished training steps."""
        lines = json_lines(self.run / "metrics.jsonl")
        return int(lines[-1]["step"]) if lines else 0

    async def until(self, condition: Callable[[], object]) -> bool:
        """Wait until `condition()` is true, then return True. If the run ends before, return False."""
        while not condition():
            if self.launcher.returncode is not None:
                return False
            await asyncio.sleep(0.1)
        return True

    def find(self, name: str) -> psutil.Process | None:
        """Return the running process with this name in `VICTIMS`. Return None if no such process runs."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.launcher.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    line = child.cmdline()
                    own = "server" in child.name() if name == "broker" else True
                    if own and (name == "broker" or all(any(p.startswith(w) for p in line) for w in VICTIMS[name])):
                        return child
        return None

    async def kill(self, name: str) -> None:
        """Wait until the process `name` (a key of `VICTIMS`) runs, and kill it with SIGKILL."""
        if await self.until(lambda: self.find(name)) and (victim := self.find(name)) is not None:
            with contextlib.suppress(psutil.Error):
                victim.kill()
                self.killed[name] += 1

    async def kills(self, count: int) -> None:
        """Kill processes `count` times, in random order. The kills are spread evenly over the training steps.

        If `count` is at least the number of processes, each process is killed at least once.
        """
        names = list(VICTIMS) + self.rng.choices(list(VICTIMS), k=max(0, count - len(VICTIMS)))
        self.rng.shuffle(names)
        for number, name in enumerate(names[:count]):
            await self.reach((number + 1) / (count + 2))
            if name == "broker" and self.full:  # after a restart, the broker would not be full
                await self.until(lambda: not self.full)
            await self.kill(name)

    async def damages(self) -> None:
        """Twice, truncate the weights file of the newest checkpoint, and kill the trainer.

        The restarted trainer must detect the damage. The two times are after 30 % and 75 % of the training steps.
        """
        for share in (0.3, 0.75):
            await self.reach(share)
            for _ in range(100):  # an attempt fails if the trainer has just removed this checkpoint
                folders = sorted(marker.parent for marker in self.run.glob("checkpoints/step-*/COMMITTED"))
                with contextlib.suppress(OSError):
                    file = folders[-1] / "model.safetensors"
                    os.truncate(file, file.stat().st_size - 100)
                    await self.kill("trainer")
                    self.damaged.append(folders[-1].name)
                    break

    async def fill_redis(self) -> None:
        """After 45 % of the training steps, let Redis report full memory for `FULL_S` seconds."""
        await self.reach(0.45)
        password = (self.run / "broker" / "password").read_text().strip()
        self.full = True
        async with Redis(port=self.redis_port, password=password) as redis:
            await self._until_done(lambda: redis.config_set("maxmemory", 1))
            began = time.monotonic()
            await asyncio.sleep(FULL_S)
            await self._until_done(lambda: redis.config_set("maxmemory", 0))
        self.windows["full Redis"] = time.monotonic() - began
        self.full = False

    async def _until_done(self, call: Callable[[], Any]) -> None:
        while self.launcher.returncode is None:
            with contextlib.suppress(Exception):
                await call()
                return
            await asyncio.sleep(0.2)

    async def errors(self, name: str, share: float) -> None:
        """For `WINDOW_S` seconds, let the share `FAULT_RATE` of the workers' requests to a service fail.

        `name`: the service ("environment" or "inference"). `share`: share of the training steps that are finished when
        the failures begin.
        """
        await self.reach(share)
        self.proxies[name].fault_rate, began = FAULT_RATE, time.monotonic()
        await self.until(lambda: time.monotonic() - began >= WINDOW_S)
        self.proxies[name].fault_rate = 0.0
        self.windows[f"errors of {name}"] = time.monotonic() - began

    async def reach(self, share: float) -> None:
        """Wait until this share of the training steps is finished, or the run has ended."""
        await self.until(lambda: self.done() >= max(1, share * self.steps))


async def run_with_faults(arguments: argparse.Namespace, folder: Path) -> tuple[Chaos, dict[str, Any]]:
    """Run a small version of the demo, and inject all faults.

    Returns (injected faults, exit status and duration of the run in seconds). `folder`: for the run directory and log.
    """
    rng, run = random.Random(arguments.seed), folder / "run"
    ports = {"environment": free_port(), "inference": free_port(), "redis": free_port()}
    proxies = {name: Proxy(ports[name], random.Random(rng.random())) for name in ("environment", "inference")}
    command = [sys.executable, "-m", "benchmarks.demo.chaos", "--launch", "up", str(CONFIG), "--run-dir", str(run)]
    overrides = (*SMALL, f"trainer.steps={arguments.steps}", *(f"{name}.port={port}" for name, port in ports.items()))
    command += [word for text in overrides for word in ("--set", text)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("REDIS_") and key != "ARLARENA_SEED"}
    clean[PROXIES] = ",".join(str(proxy.port) for proxy in proxies.values())
    began = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        for proxy in proxies.values():
            await stack.enter_async_context(proxy.running())
        with (folder / "up.log").open("wb") as log:
            launcher = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=clean)
        chaos = Chaos(run, launcher, arguments.steps, ports["redis"], proxies, rng)
        try:
            faults = (chaos.kills(arguments.kills), chaos.damages(), chaos.fill_redis(),
                      chaos.errors("environment", 0.1), chaos.errors("inference", 0.55))  # fmt: skip
            with contextlib.suppress(TimeoutError):  # then the launcher is terminated below, and the check fails
                async with asyncio.timeout(60 * arguments.minutes):
                    await asyncio.gather(*faults, launcher.wait())
        finally:
            if launcher.returncode is None:
                launcher.terminate()
                await launcher.wait()
    return chaos, {"exit": launcher.returncode, "seconds": round(time.monotonic() - began, 1)}


def judge(arguments: argparse.Namespace, chaos: Chaos, ended: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Check the run and the faults. Return the result of the benchmark, with the key `passed`.

    `chaos`, `ended`: the results of `run_with_faults`.
    """
    problems = [] if ended["exit"] == 0 else [f"exit status {ended['exit']}: {_tail(folder / 'up.log')}"]
    outcomes = played = Counter[str]()
    if ended["exit"] == 0:
        problems, outcomes = lineage_problems(chaos.run, arguments.steps)
        wrong_rewards, played = reward_problems(chaos.run)
        problems += wrong_rewards[:20]
    missing = [name for name in VICTIMS if arguments.kills >= len(VICTIMS) and not chaos.killed[name]]
    if sum(chaos.killed.values()) < arguments.kills + DAMAGES or missing:
        problems.append(f"the run ended before all kills: {dict(chaos.killed)}")
    if len(chaos.damaged) < DAMAGES:
        problems.append(f"the run ended before all checkpoints were damaged: {chaos.damaged}")
    short = [name for name, seconds in chaos.windows.items() if seconds < (FULL_S if "Redis" in name else WINDOW_S)]
    if short or len(chaos.windows) < 3:
        problems.append(f"the run ended before the end of these faults: {short or 'at least one had not begun'}")
    return {
        "passed": not problems, "problems": problems, **ended, "steps": arguments.steps, "seed": arguments.seed,
        "killed": dict(chaos.killed), "damaged": chaos.damaged, "damage_noticed": _noticed(chaos.run),
        "windows_s": {name: round(seconds, 1) for name, seconds in chaos.windows.items()},
        "requests": {
            name: {"passed": proxy.passed, "failed": dict(proxy.failed)} for name, proxy in chaos.proxies.items()
        },
        "groups": dict(outcomes), "played_again": dict(played),
    }  # fmt: skip


def _noticed(run: Path) -> int:
    return (run / "logs" / "trainer.log").read_text(errors="replace").count('"event":"checkpoint_damaged"')


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-1500:]


def launch(arguments: list[str]) -> None:
    """Run the command `arlarena` with these arguments. Its workers connect to the services through the proxies.

    The environment variable `PROXIES` contains the ports of the proxies.
    """
    ports = [int(port) for port in os.environ[PROXIES].split(",")]
    environment_proxy, inference_proxy = (Address("127.0.0.1", port) for port in ports)

    class Proxied(Commands):
        def worker(
            self, log: str, name: str, environment: AnyAddress, inference: AnyAddress, redis_url: str
        ) -> ProcessSpec:
            return super().worker(log, name, environment_proxy, inference_proxy, redis_url)

    from arlarena.console.cli.app import main as command

    sys.argv = ["arlarena", *arguments]
    with mock.patch.object(pipeline, "Commands", Proxied):
        command()


def main() -> int:
    """Run a small version of the demo with faults, check it, and write the result. Return the exit status."""
    if sys.argv[1:2] == ["--launch"]:
        launch(sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=120, help="number of training steps; the faults are spread over them"
    )
    parser.add_argument("--kills", type=int, default=30, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    parser.add_argument("--minutes", type=float, default=30, help="time limit of the run in minutes")
    parser.add_argument("--out", type=Path, help="file for the result")
    parser.add_argument("--keep", type=Path, help="folder in which the files of the run are kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="arlarena-chaos-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        chaos, ended = asyncio.run(run_with_faults(arguments, folder))
        return int(finish(judge(arguments, chaos, ended, folder), arguments.out))


if __name__ == "__main__":
    sys.exit(main())
