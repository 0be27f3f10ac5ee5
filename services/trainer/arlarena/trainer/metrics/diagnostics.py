"""Computes the metrics of a step. `metrics.jsonl`, the console and the report use the same names for metrics.

`metrics.jsonl` contains one JSON object per step. A value that is not finite is written as null. The metrics include
all metrics that the ARLArena paper plots (arXiv 2602.21534). `arlarena/proto/metrics.toml` must define each metric and
its unit. `flows.jsonl` contains the transitions between actions (`action_flows`) of each step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arlarena.proto.atomic_files import write_text
from arlarena.proto.trajectory import Group, prompt_lengths
from arlarena.trainer.batching.scoring import ScoredGroup, has_no_action, returns, successes
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.metrics.behaviour import behaviour_metrics
from arlarena.trainer.objectives.filtering import Selected


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0


def episode_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Return the metrics of all episodes in `groups`: the groups of a step, including those that the filter dropped."""
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    solved = [successes(group) for group in groups]
    return {
        "success_rate": _mean(trajectory.success for trajectory in trajectories),
        "return_mean": _mean(value for group in groups for value in returns(group)),
        "turns_mean": _mean(len(trajectory.turns) for trajectory in trajectories),
        "format_valid": _mean(turn.format_valid for turn in turns),
        "action_valid": _mean(turn.action_valid for turn in turns),
        "no_action_share": _mean(map(has_no_action, trajectories)),
        "response_tokens": _mean(len(turn.loss_mask) for turn in turns),
        "solve_all": _mean(all(each) for each in solved),
        "solve_none": _mean(not any(each) for each in solved),
        "episodes": float(len(trajectories)),
    } | behaviour_metrics(groups)


def training_metrics(groups: Sequence[ScoredGroup], staleness_policy: StalenessPolicy) -> dict[str, float]:
    """Return the metrics of the groups that a step trains on.

    Advantages and anchors are those of all episodes. Ages, formats and tokens are those of the usable episodes only.
    """
    sizes = [float(size) for scored in groups for each in scored.advantages.anchor_sizes for size in each]
    credit = [abs(value) for scored in groups for each in scored.advantages.total for value in each]
    used = [
        trajectory
        for scored in groups
        for trajectory, usable in zip(scored.group.trajectories, scored.usable, strict=True)
        if usable
    ]
    ages = [float(age) for age in map(staleness_policy.age, used) if age is not None]
    turns = [turn for trajectory in used for turn in trajectory.turns]
    return {
        "anchor_size": _mean(sizes),
        "advantage_abs": _mean(credit),
        "age_mean": _mean(ages),
        "age_max": max(ages, default=0.0),
        "format_valid_trained": _mean(turn.format_valid for turn in turns),
        "tokens": float(
            sum(sum(prompt_lengths(each.turns)) for each in used) + sum(len(turn.loss_mask) for turn in turns)
        ),
    }


def selection_metrics(selected: Selected[Group]) -> dict[str, float]:
    """Return how many groups the filter kept, how many it dropped, and how many dropped groups are in the batch again.

    `groups_filtered` does not count the dropped groups that the back-fill added to the batch (`groups_backfilled`).
    """
    return {
        "groups_kept": selected.kept,
        "groups_filtered": len(selected.filtered),
        "groups_backfilled": selected.backfilled,
    }


class MetricsFile:
    """A file with one line of JSON for each step. A resumed run removes the lines of steps after its checkpoint."""

    def __init__(self, path: Path) -> None:
        """Store `path`. The file is created by the first `append`."""
        self.path = path

    def remove_after(self, step: int) -> None:
        """Remove the records of steps after `step`, and records that cannot be read."""
        if not self.path.exists():
            return
        kept = [line for line in self.path.read_text(errors="replace").splitlines() if _step_of(line) <= step]
        write_text(self.path, "".join(line + "\n" for line in kept))

    def append(self, record: dict[str, Any]) -> None:
        """Write one record. Numbers are rounded to seven significant digits. NaN and infinity become null."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json_line({key: _round(value) for key, value in record.items()}))


def not_finite(metrics: Mapping[str, float]) -> list[str]:
    """Return the names of metrics that are NaN or infinite."""
    return sorted(name for name, value in metrics.items() if not math.isfinite(value))


def json_line(record: Mapping[str, Any]) -> str:
    """Return `record` as one line of JSON. NaN and infinity become null, because JSON has no such numbers."""
    return json.dumps(finite_or_null(record), allow_nan=False) + "\n"


def finite_or_null(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `record` with None instead of NaN and infinity."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }


def _round(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return 1 << 60  # later than every step, so that `remove_after` removes a truncated or damaged line
