"""The demo's loop, small, under faults of every kind: it ends, accounts for every group once, and no reward is false.

    python -m benchmarks.demo.chaos --steps 120 --kills 30 --out benchmarks/results/chaos.json

`arlarena up` trains with two workers, which reach the environment and the policy server by proxies of this script.
While it trains:

* processes are killed with SIGKILL, at random: broker, environment, policy server, workers, trainer (`--kills`);
* two times the newest checkpoint is damaged and the trainer killed, so that it has to go on from an older one;
* the memory of Redis is full for some time (`maxmemory`);
* for a minute each, 30 % of the requests to the environment and to the policy server fail: refused, broken off, or
  carried out with the answer lost.

Afterwards: the run's exit status is 0; every group that was issued is in the lineage once; the groups of all steps
together are those that the lineage calls trained, each once; and every recorded episode, played again in the
environment, has the same rewards, marks, score and end.
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

import psutil
from redis.asyncio import Redis

from arlarena.console.launch import pipeline
from arlarena.console.launch.child import Address, ProcessSpec
from arlarena.console.launch.commands import Commands
from benchmarks.demo.chaos_checks import json_lines, lineage_problems, reward_problems
from benchmarks.demo.faulty_proxy import Proxy
from benchmarks.support.paths import ROOT
from benchmarks.support.ports import free_port
from benchmarks.support.results import finish

PROXIES = "ARLARENA_CHAOS_PROXIES"  # ports of this script's proxies, for the launcher: environment, policy server
CONFIG = ROOT / "configs" / "demo.toml"
SHARE, WINDOW_S, FULL_S, DAMAGES = 0.3, 60.0, 15.0, 2
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
    """One run, and the faults that are caused in it."""

    run: Path
    launcher: asyncio.subprocess.Process
    steps: int
    redis_port: int
    proxies: dict[str, Proxy]
    dice: random.Random
    killed: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)
    windows: dict[str, float] = field(default_factory=dict)
    full: bool = False

    def done(self) -> int:
        """Number of steps that the trainer has taken."""
        lines = json_lines(self.run / "metrics.jsonl")
        return int(lines[-1]["step"]) if lines else 0

    async def until(self, condition: Callable[[], object]) -> bool:
        """Wait for `condition`. Return False if the run ended first."""
        while not condition():
            if self.launcher.returncode is not None:
                return False
            await asyncio.sleep(0.1)
        return True

    def find(self, name: str) -> psutil.Process | None:
        """Return the running process with this name, or None."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.launcher.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    line = child.cmdline()
                    own = "server" in child.name() if name == "broker" else True
                    if own and (name == "broker" or all(any(p.startswith(w) for p in line) for w in VICTIMS[name])):
                        return child
        return None

    async def kill(self, name: str) -> None:
        """Wait until the process exists, and kill it with SIGKILL."""
        if await self.until(lambda: self.find(name)) and (victim := self.find(name)) is not None:
            with contextlib.suppress(psutil.Error):
                victim.kill()
                self.killed[name] += 1

    async def kills(self, count: int) -> None:
        """Kill each process once, then random processes, spread evenly over the steps."""
        names = list(VICTIMS) + self.dice.choices(list(VICTIMS), k=max(0, count - len(VICTIMS)))
        self.dice.shuffle(names)
        for number, name in enumerate(names[:count]):
            await self.reach((number + 1) / (count + 2))
            if name == "broker" and self.full:  # a new broker would have room
                await self.until(lambda: not self.full)
            await self.kill(name)

    async def damages(self) -> None:
        """Truncate the newest checkpoint's weights and kill the trainer. The restarted trainer must notice the
        damage.
        """
        for share in (0.3, 0.75):
            await self.reach(share)
            for _ in range(100):  # the trainer may have removed it meanwhile
                folders = sorted(marker.parent for marker in self.run.glob("checkpoints/step-*/COMMITTED"))
                with contextlib.suppress(OSError):
                    file = folders[-1] / "model.safetensors"
                    os.truncate(file, file.stat().st_size - 100)
                    await self.kill("trainer")
                    self.damaged.append(folders[-1].name)
                    break

    async def fill_redis(self) -> None:
        """Fill the memory of Redis for some time."""
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
        """Let requests to a service fail for some time."""
        await self.reach(share)
        self.proxies[name].share, began = SHARE, time.monotonic()
        await self.until(lambda: time.monotonic() - began >= WINDOW_S)
        self.proxies[name].share = 0.0
        self.windows[f"errors of {name}"] = time.monotonic() - began

    async def reach(self, share: float) -> None:
        """Wait until this share of the steps has been taken."""
        await self.until(lambda: self.done() >= max(1, share * self.steps))


async def torment(arguments: argparse.Namespace, folder: Path) -> tuple[Chaos, dict[str, Any]]:
    """Run the demo with all faults. Return the faults, and how the run ended."""
    dice, run = random.Random(arguments.seed), folder / "run"
    ports = {"environment": free_port(), "inference": free_port(), "redis": free_port()}
    proxies = {name: Proxy(ports[name], random.Random(dice.random())) for name in ("environment", "inference")}
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
        chaos = Chaos(run, launcher, arguments.steps, ports["redis"], proxies, dice)
        try:
            faults = (chaos.kills(arguments.kills), chaos.damages(), chaos.fill_redis(),
                      chaos.errors("environment", 0.1), chaos.errors("inference", 0.55))  # fmt: skip
            async with asyncio.timeout(60 * arguments.minutes):
                await asyncio.gather(*faults, launcher.wait())
        finally:
            if launcher.returncode is None:
                launcher.terminate()
                await launcher.wait()
    return chaos, {"exit": launcher.returncode, "seconds": round(time.monotonic() - began, 1)}


def judge(arguments: argparse.Namespace, chaos: Chaos, ended: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make all checks and return their results."""
    problems = [] if ended["exit"] == 0 else [f"exit status {ended['exit']}: {_tail(folder / 'up.log')}"]
    outcomes = played = Counter[str]()
    if ended["exit"] == 0:
        problems, outcomes = lineage_problems(chaos.run, arguments.steps)
        false, played = reward_problems(chaos.run)
        problems += false[:20]
    missing = [name for name in VICTIMS if arguments.kills >= len(VICTIMS) and not chaos.killed[name]]
    if sum(chaos.killed.values()) < arguments.kills + DAMAGES or missing:
        problems.append(f"the run ended before all kills: {dict(chaos.killed)}")
    if len(chaos.damaged) < DAMAGES:
        problems.append(f"the run ended before all damages: {chaos.damaged}")
    short = [name for name, seconds in chaos.windows.items() if seconds < (FULL_S if "Redis" in name else WINDOW_S)]
    if short or len(chaos.windows) < 3:
        problems.append(f"the run ended during {short or 'a window that did not begin'}")
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


def launch(words: list[str]) -> None:
    """Run `arlarena WORDS…`. Its workers reach the services through the proxies."""
    ports = [int(port) for port in os.environ[PROXIES].split(",")]
    environment, inference = (Address("127.0.0.1", port) for port in ports)

    class Proxied(Commands):
        def worker(
            self, index: int, restarts: int, _environment: Address, _inference: Address, redis: str
        ) -> ProcessSpec:
            return Commands.worker(self, index, restarts, environment, inference, redis)

    setattr(pipeline, "Commands", Proxied)  # noqa: B010
    from arlarena.console.cli.app import main as command

    sys.argv = ["arlarena", *words]
    command()


def main() -> int:
    """Run the command in the module's docstring."""
    if sys.argv[1:2] == ["--launch"]:
        launch(sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120, help="of training; faults are spread over them")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--minutes", type=float, default=30, help="limit of the whole")
    parser.add_argument("--out", type=Path, help="file for the result")
    parser.add_argument("--keep", type=Path, help="folder for the run, which is kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="arlarena-chaos-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        chaos, ended = asyncio.run(torment(arguments, folder))
        return int(finish(judge(arguments, chaos, ended, folder), arguments.out))


if __name__ == "__main__":
    sys.exit(main())
