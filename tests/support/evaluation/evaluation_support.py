"""Runs evaluations of scripted models on real environment servers."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from arlarena.client.environments import EnvironmentClient
from arlarena.client.transport import Timeouts
from arlarena.rollout.evaluation.models.protocol import ModelMessage, Reply, SamplingRequest, TokenUsage
from arlarena.rollout.evaluation.play.budgets import BudgetLimits, BudgetMeter
from arlarena.rollout.evaluation.play.caller import ModelAccess
from arlarena.rollout.evaluation.play.journal import Journal
from arlarena.rollout.evaluation.play.limits import ModelLimits, RequestGate
from arlarena.rollout.evaluation.play.pictures import PictureStore
from arlarena.rollout.evaluation.play.resume import EvaluationHistory, write_plan
from arlarena.rollout.evaluation.play.scheduler import EvaluatedEnvironment, EvaluationOutcome, EvaluationRun
from arlarena.rollout.evaluation.play.slots import PlayLimits
from arlarena.rollout.evaluation.records import AttemptKey, AttemptRecord, EnvironmentPlan, EvaluationPlan
from arlarena.rollout.evaluation.strategies.plain import PlainPlayer
from arlarena.rollout.evaluation.strategies.protocol import Player

MOVES = ("up", "down", "left", "right")
FAST = ModelLimits(concurrency=8, first_pause_s=0.01, longest_pause_s=0.05)
QUICK = PlayLimits(sessions=12, first_pause_s=0.02, longest_pause_s=0.2)


@dataclass
class ScriptedModel:
    """A model in this process.

    Attributes:
        say: function from messages and seed to the reply.
        delay_s: seconds before each reply.
        fault: called before each reply. It can raise an error.
        seeds: seeds of all requests.
        asked: messages of all requests.
        in_flight: number of running requests.
        most: maximum of `in_flight`.
    """

    say: Callable[[Sequence[ModelMessage], int], str]
    delay_s: float = 0.0
    fault: Callable[[], None] = lambda: None
    name: str = "scripted"
    sees_images: bool = False
    seeds: list[int] = field(default_factory=list)
    asked: list[tuple[ModelMessage, ...]] = field(default_factory=list)
    in_flight: int = 0
    most: int = 0

    async def reply(self, messages: Sequence[ModelMessage], sampling: SamplingRequest, *, seed: int) -> Reply:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(self.delay_s)
            self.fault()
            self.seeds.append(seed)
            self.asked.append(tuple(messages))
            text = self.say(messages, seed)
            return Reply(text, usage=TokenUsage(input=len(messages[-1].text), output=len(text)), model="scripted-1")
        finally:
            self.in_flight -= 1

    async def close(self) -> None:
        return


def move(messages: Sequence[ModelMessage], seed: int) -> str:
    """Return a random move in Sokoban. The seed determines the move."""
    return f"<think>{seed}</think><action>{random.Random(seed).choice(MOVES)}</action>"


def middle(messages: Sequence[ModelMessage], seed: int) -> str:
    """Return the best guess in the environment `guess`. This strategy solves each task."""
    low, high = map(int, re.findall(r"The number is from (\d+) to (\d+)", messages[-1].text)[-1])
    return f"<think>{seed}</think><action>{(low + high) // 2}</action>"


async def plan_of(
    clients: Mapping[str, EnvironmentClient],
    tasks: int,
    *,
    split: str = "test",
    attempts: int = 1,
    images: bool = False,
) -> EvaluationPlan:
    """Return a plan with the first `tasks` tasks of each environment. The servers describe the environments."""
    environments = []
    for name, client in clients.items():
        info = await client.info()
        environments.append(
            EnvironmentPlan(
                name=name,
                url=client.url,
                version=info.version,
                template=f"{info.template.name}/{info.template.version}",
                parser=info.parser.version,
                options=info.options,
                split=split,
                indices=tuple(range(tasks)),
            )
        )
    return EvaluationPlan(1, "scripted", "", "plain", {}, {}, tuple(environments), attempts, 0, images)


@dataclass
class Evaluation:
    """An evaluation: model, player, limits and settings of clients. `run` starts or resumes it in `directory`."""

    directory: Path
    model: ScriptedModel | None
    player: Player = field(default_factory=PlainPlayer)
    requests: ModelLimits = FAST
    play: PlayLimits = QUICK
    budget: BudgetLimits = field(default_factory=BudgetLimits)
    retries: int = 0
    timeout_s: float = 10.0

    async def run(self, urls: Mapping[str, str], tasks: int, **plan: Any) -> EvaluationOutcome:
        """Play until all attempts have ended or a budget is used up. Resume an earlier evaluation in `directory`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            clients = {
                name: await stack.enter_async_context(
                    EnvironmentClient(url, Timeouts(2.0, self.timeout_s), retries=self.retries, batch_window_s=0.002)
                )
                for name, url in urls.items()
            }
            return await self.with_clients(clients, await plan_of(clients, tasks, **plan))

    async def with_clients(self, clients: Mapping[str, EnvironmentClient], plan: EvaluationPlan) -> EvaluationOutcome:
        journal = Journal(self.directory)
        try:
            write_plan(self.directory, plan)
            history = EvaluationHistory.read(self.directory)
            access = None
            if self.model is not None:
                meter = BudgetMeter(self.budget, lambda usage: (usage.output or 0) / 1000)
                access = ModelAccess(self.model, SamplingRequest(), RequestGate(self.requests), meter, journal)
            environments = {
                name: EvaluatedEnvironment(
                    client, self.player, PictureStore.of(self.directory, client) if plan.images else None
                )
                for name, client in clients.items()
            }
            self.started = EvaluationRun(plan, environments, journal, history, access, limits=self.play)
            return await self.started.run()
        finally:
            await journal.close()

    def history(self) -> EvaluationHistory:
        return EvaluationHistory.read(self.directory)


def essence(record: AttemptRecord) -> AttemptRecord:
    """Return a record without the fields that can differ between equal attempts: times, and the costs of retries."""
    return msgspec.structs.replace(
        record, started=0.0, seconds=0.0, restarts=0, requests=0, usage=TokenUsage(), divergences=0
    )


def results_of(outcome: EvaluationOutcome) -> dict[AttemptKey, AttemptRecord]:
    return {key: essence(record) for key, record in outcome.results.items()}


def statuses(outcome: EvaluationOutcome) -> Counter[str]:
    return Counter(record.status for record in outcome.results.values())
