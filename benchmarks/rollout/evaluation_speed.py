"""Compares the duration of an evaluation with the ideal duration, in which only the model's replies take time.

    python -m benchmarks.rollout.evaluation_speed [--tasks 2048] [--concurrency 64] [--reply-ms 50] [--sessions 128]

A Sokoban environment server runs in another process. The model runs in this process and replies after `reply-ms`. So
the ideal duration is requests * reply-ms / concurrency. The journal is in a temporary folder and is synced to disk as
usual. The result also contains the CPU time per request of both processes, because other programs change the CPU time
only slightly.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from arlarena.client.environments import EnvironmentClient
from arlarena.rollout.evaluation.models.protocol import ModelMessage, Reply, SamplingRequest, TokenUsage
from arlarena.rollout.evaluation.play.budgets import BudgetLimits, BudgetMeter
from arlarena.rollout.evaluation.play.caller import ModelAccess
from arlarena.rollout.evaluation.play.journal import Journal
from arlarena.rollout.evaluation.play.limits import ModelLimits, RequestGate
from arlarena.rollout.evaluation.play.resume import EvaluationHistory
from arlarena.rollout.evaluation.play.scheduler import EvaluatedEnvironment, EvaluationRun
from arlarena.rollout.evaluation.play.slots import PlayLimits
from arlarena.rollout.evaluation.records import EnvironmentPlan, EvaluationPlan
from arlarena.rollout.evaluation.strategies.plain import PlainPlayer
from arlarena.rollout.settings import load_rollout
from benchmarks.support.environment_server import environment_server
from benchmarks.support.results import finish

MAX_RATIO = 1.15  # limit of the duration relative to the ideal duration
MOVES = ("up", "down", "left", "right")


class SlowModel:
    """A model that replies after `delay_s` seconds. The seed determines the move in the reply."""

    name, sees_images = "slow", False

    def __init__(self, delay_s: float) -> None:
        self.delay_s, self.requests, self.in_flight, self.most = delay_s, 0, 0, 0

    async def reply(self, messages: Sequence[ModelMessage], sampling: SamplingRequest, *, seed: int) -> Reply:
        """See `ChatModel`."""
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(self.delay_s)
        self.in_flight -= 1
        self.requests += 1
        return Reply(f"<think></think><action>{MOVES[seed % 4]}</action>", usage=TokenUsage(100, 10))

    async def close(self) -> None:
        """See `ChatModel`."""


def plan_of(tasks: int) -> EvaluationPlan:
    sokoban = EnvironmentPlan("sokoban", "", "", "", "", {}, "train", tuple(range(tasks)))
    return EvaluationPlan(1, "slow", "", "plain", {}, {}, (sokoban,), 1, 0, False)


async def measured(url: str, folder: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """Run one evaluation. Return the measurements."""
    model, journal = SlowModel(flags.reply_ms / 1000), Journal(folder)
    gate = RequestGate(ModelLimits(concurrency=flags.concurrency))
    access = ModelAccess(model, SamplingRequest(), gate, BudgetMeter(BudgetLimits()), journal)
    window = load_rollout(None).batch_window_s if flags.window_ms is None else flags.window_ms / 1000
    async with EnvironmentClient(url, batch_window_s=window) as client:
        await client.info()  # connects before the measurement starts
        environments = {"sokoban": EvaluatedEnvironment(client, PlainPlayer())}
        limits = PlayLimits(sessions=flags.sessions)
        run = EvaluationRun(plan_of(flags.tasks), environments, journal, EvaluationHistory(), access, limits=limits)
        cpu, began = time.process_time(), time.perf_counter()
        outcome = await run.run()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    await journal.close()
    assert outcome.remaining == 0
    ideal = model.requests * flags.reply_ms / 1000 / flags.concurrency
    return {
        "tasks": flags.tasks,
        "requests": model.requests,
        "seconds": round(seconds, 2),
        "ideal_seconds": round(ideal, 2),
        "ratio": round(seconds / ideal, 3),
        "cpu_ms_per_request": round(1000 * cpu / model.requests, 3),
        "most_requests_at_once": model.most,
        "syncs": journal.syncs,
        "load_average": os.getloadavg()[0],
    }


def main() -> int:
    """Run the benchmark. Return 0 if the ratio is low enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2048)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--sessions", type=int, default=128)
    parser.add_argument("--reply-ms", type=float, default=50.0)
    parser.add_argument("--window-ms", type=float, help="batch window of the environment client")
    parser.add_argument("--profile", type=Path, help="write a profile of this process")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, environment_server() as (url, process):
        run = measured(url, Path(folder), flags)
        if flags.profile:
            with cProfile.Profile() as profile:
                result = asyncio.run(run)
            profile.dump_stats(flags.profile)
        else:
            result = uvloop.run(run)
        used = process.cpu_times()
        result["environment_cpu_ms_per_request"] = round(1000 * (used.user + used.system) / result["requests"], 3)
    result |= {"required_ratio": MAX_RATIO, "passed": result["ratio"] <= MAX_RATIO}
    return finish(result, flags.out)


if __name__ == "__main__":
    sys.exit(main())
