"""Writes the directory of a small training run with the code of real runs, but without a broker and without updates.

The environment server is real. The expert with noise takes the place of the policy. This saves a minute.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import tomli_w
import torch

from arlarena.client.environments import Session, StepOutcome
from arlarena.proto.served import ServedEnvironment
from arlarena.proto.task_order import TaskOrder, group_id
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import Group, PolicyVersion, Sampling, Task, VersionSpan, read_groups, write_groups
from arlarena.rollout.demonstrate import demonstration_assignments, write_demonstrations
from arlarena.rollout.episode import Assignment, Response
from arlarena.rollout.evaluate import eval_assignments, summarise, write_episodes
from arlarena.rollout.evaluation.certificate.checks import Certificate
from arlarena.rollout.evaluation.served import connected_runner
from arlarena.rollout.play_all import play_all
from arlarena.rollout.policies import ExpertPolicy
from arlarena.rollout.runner import Runner
from arlarena.rollout.settings import EvaluationSettings, RolloutSettings
from arlarena.rollout.tokens import Tokens
from arlarena.trainer.model.policy import load_policy
from arlarena.trainer.model.tiny import create_tiny_policy, pieces_of
from arlarena.trainer.policy_settings import TinyPolicy
from arlarena.trainer.state.checkpoint import Checkpoints, TrainerState
from arlarena.trainer.weights.versions import Version, VersionStore

LOG = Logger("test", "error")
SMALL = TinyPolicy(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=32)
STEPS, GROUPS, MEMBERS, EVALUATED = 2, 3, 2, 6
SETTINGS = EvaluationSettings(split="test", count=EVALUATED, episodes=EVALUATED)


class Sampled:
    """The expert with noise. Its replies are recorded as samples of `version`."""

    def __init__(self, tokens: Tokens, version: PolicyVersion) -> None:
        self._expert = ExpertPolicy(tokens, 0.3, action="<think>x</think><action>{action}</action>")
        self._version = version

    async def respond(self, session: Session, state: StepOutcome, seed_key: str, turn: int) -> Response:
        response = await self._expert.respond(session, state, seed_key, turn)
        return replace(response, spans=(VersionSpan(0, len(response.token_ids), self._version),))


class SmallRun:
    """Writes the parts of the run directory, one after another."""

    def __init__(self, folder: Path, runner: Runner, name: str, options: dict[str, Any]) -> None:
        self.folder, self.runner, self.name = folder, runner, name
        folder.mkdir()
        environment = {"name": name, "options": options, "expert_splits": ["test"]}
        (folder / "config.toml").write_text(tomli_w.dumps({"run": {"name": "small"}, "environment": environment}))
        (folder / "run.json").write_text(json.dumps({"id": "small-1", "name": "small", "schema": 3, "finished": True}))

    async def write(self) -> None:
        info = await self.runner.environments.info()
        create_tiny_policy(self.folder / "policy", SMALL, seed=0, pieces=pieces_of(info))
        self.tokens = Tokens.load(self.folder / "policy").with_tags(info.parser.tags)
        self.served = ServedEnvironment.of(info)
        await self._demonstrate()
        self.model = load_policy(self.folder / "policy")
        self.versions = VersionStore(self.folder / "weights", self.folder / "policy", "trainer1", keep=10)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", keep=10)
        order = TaskOrder("train", None, 0, 1_000_000)
        drawn = {"environment": self.name, "group_size": MEMBERS, "split": "train", "size": None, "seed": 0}
        self.state = TrainerState(tasks=drawn | {"start": order.start, "blocks": True})
        self.state.record_served(self.served)
        version = self._publish()
        await self._evaluate("before", PolicyVersion("initial", 0, version.version.digest))
        for _ in range(STEPS):
            await self._step(order, version.version)
            version = self._publish()
        await self._evaluate("after", version.version)

    async def _demonstrate(self) -> None:
        assignments = demonstration_assignments(self.name, "train", range(8), 0)
        played = await play_all(self.runner, assignments, ExpertPolicy(self.tokens), concurrency=8)
        write_demonstrations(self.folder / "demonstrations.msgpack", assignments, played)

    def _publish(self) -> Version:
        weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        version = self.versions.write(self.model, weights, self.state.step)
        self.state.versions[version.version.digest] = self.state.step
        self.checkpoints.save(self.state, weights, {"moment": torch.zeros(2)}, version.weights_file)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.001)
        return version

    async def _step(self, order: TaskOrder, version: PolicyVersion) -> None:
        groups = []
        for index in self.state.ledger.issue(GROUPS):
            task, name = Task(self.name, "train", order.index(index), order.seed), group_id(index)
            assignments = [Assignment(f"{name}-{member}", task, f"{name}/{member}") for member in range(MEMBERS)]
            policy = Sampled(self.tokens, version)
            played = await play_all(self.runner, assignments, policy, concurrency=MEMBERS)
            members = tuple(played.episodes[member].trajectory for member in range(MEMBERS))
            groups.append(Group(name, task, MEMBERS, members, Sampling(), version, version))
        filtered = groups[-1]  # the other two groups have the outcome "trained"
        for group in groups:
            self.state.ledger.settle(group.id, "filtered" if group is filtered else "trained", self.state.step)
        self.state.step += 1
        (self.folder / "groups").mkdir(exist_ok=True)
        write_groups(self.folder / "groups" / f"step-{self.state.step:06d}.msgpack", groups[:-1])
        record = {"step": self.state.step, "groups_kept": GROUPS - 1, "groups_backfilled": 0}
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    async def _evaluate(self, label: str, version: PolicyVersion) -> None:
        assignments = eval_assignments(SETTINGS, self.name)
        played = await play_all(self.runner, assignments, Sampled(self.tokens, version), concurrency=8)
        result = summarise(SETTINGS, self.name, assignments, played, 1.0)
        result["served"] = msgspec.to_builtins(self.served)
        (self.folder / "eval_sets").mkdir(exist_ok=True)
        (self.folder / "eval_sets" / f"{label}.json").write_text(json.dumps(result))
        write_episodes(self.folder / "episodes" / f"{label}.jsonl", assignments, played, EVALUATED, 10**7)


def write_small_run(folder: Path, url: str, name: str, options: dict[str, Any]) -> None:
    """Write a run to the new folder `folder`. Its episodes are played on the environment server at `url`."""

    async def write() -> None:
        async with connected_runner(url, RolloutSettings(), None, LOG) as runner:
            await SmallRun(folder, runner, name, options).write()

    asyncio.run(write())


def change_groups(path: Path, change: Callable[[list[Group]], list[Group]]) -> None:
    write_groups(path, change(read_groups(path)))


def with_first_turn(group: Group, **changes: Any) -> Group:
    """Return the group with changed fields in the first turn of its first member."""
    first, *others = group.trajectories
    turns = (msgspec.structs.replace(first.turns[0], **changes), *first.turns[1:])
    return msgspec.structs.replace(group, trajectories=(msgspec.structs.replace(first, turns=turns), *others))


def edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def failed(certificate: Certificate) -> dict[str, list[str]]:
    return {each.name: each.failures for each in certificate.checks if each.verdict == "failed"}
