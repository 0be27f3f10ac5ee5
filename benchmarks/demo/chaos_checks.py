"""Checks a run with injected faults: no group is lost or counted twice, and all rewards can be reproduced."""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from arlarena.environment.protocols import EnvironmentFactory
from arlarena.environment.registry import load
from arlarena.proto.trajectory import Task, Trajectory, read_groups


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a JSON Lines file. Skip incomplete lines. If the file does not exist, return []."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def strict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a dictionary from the pairs of a JSON object (`object_pairs_hook` of `json.loads`).

    Raises:
        ValueError: a key occurs twice. JSON allows this, but a lineage must contain each group only once.
    """
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"keys that occur twice in a JSON object: {twice}")
    return dict(pairs)


def lineage_problems(run: Path, steps: int) -> tuple[list[str], Counter[str]]:
    """Check the lineage (the trainer's record of the outcome of each group) and the recorded steps of a finished run.

    Returns (problems, outcomes). `problems` are descriptions of missing or duplicate groups and steps. `outcomes` is
    outcome → number of groups in the lineage. `steps`: expected number of steps.
    """
    newest = sorted(path.parent for path in run.glob("checkpoints/step-*/COMMITTED"))[-1]
    state = json.loads((newest / "state.json").read_text(), object_pairs_hook=strict)
    ledger, problems = state["ledger"], []
    if sorted(ledger["lineage"]) != [f"g{index:06d}" for index in range(ledger["next_index"])]:
        problems.append("the groups in the lineage are not the issued groups")
    if ledger["open"]:
        problems.append(f"groups without an outcome: {sorted(ledger['open'])}")
    if [record["step"] for record in json_lines(run / "metrics.jsonl")] != list(range(1, steps + 1)):
        problems.append("metrics.jsonl does not contain each step exactly once")
    trained = {group: at for group, (outcome, at) in ledger["lineage"].items() if outcome == "trained"}
    recorded = Counter(
        (group.id, int(file.stem.removeprefix("step-")) - 1)
        for file in run.glob("groups/step-*.msgpack")
        for group in read_groups(file)
    )
    problems += [
        f"{group} was trained on {count} times at step {at}" for (group, at), count in recorded.items() if count > 1
    ]
    if set(recorded) != set(trained.items()):
        difference = sorted(set(recorded) ^ set(trained.items()))
        problems.append(f"recorded groups and groups with outcome 'trained' differ: {difference[:10]}")
    return problems, Counter(outcome for outcome, _ in ledger["lineage"].values())


def reward_problems(run: Path) -> tuple[list[str], Counter[str]]:
    """Play all recorded episodes of a run again.

    Returns (problems, counts). `problems` are descriptions of the episodes whose results differ from the recording.
    `counts` is outcome → number of episodes. The key `turns` of `counts` is the number of turns.
    """
    table = tomllib.loads((run / "config.toml").read_text())["environment"]
    factory = load("[environment]", table["name"], table.get("options", {}))
    problems, counts = [], Counter[str]()
    for file in sorted(run.glob("groups/step-*.msgpack")):
        for group in read_groups(file):
            for trajectory in group.trajectories:
                counts[trajectory.outcome] += 1
                counts["turns"] += len(trajectory.turns)
                if problem := _play_again(factory, group.task, trajectory):
                    problems.append(f"{file.name} {group.id} {trajectory.id}: {problem}")
    return problems, counts


def _play_again(factory: EnvironmentFactory, task: Task, trajectory: Trajectory) -> str:
    """Play a recorded episode again. Return a description of the first difference, or "" if nothing differs."""
    if trajectory.outcome != "ok":
        return "" if trajectory.fault and trajectory.score == 0 else "a failed episode has a score or no reason"
    episode = factory.start(task)
    last = episode.observe()
    for number, turn in enumerate(trajectory.turns):
        if episode.done:
            return f"the episode ended before turn {number}"
        last = episode.step(turn.response)
        now = (last.reward, last.observation.action_valid, last.observation.format_valid)
        recorded = (turn.reward, turn.action_valid, turn.format_valid)
        if now != recorded:
            return f"turn {number}: recorded {recorded}, now {now}"
    assert last.metadata is not None
    end = (last.observation.terminated, last.observation.truncated, last.metadata.score, last.metadata.success)
    recorded_end = (trajectory.terminated, trajectory.truncated, trajectory.score, trajectory.success)
    return "" if end == recorded_end and episode.done else f"end: recorded {recorded_end}, now {end}"
