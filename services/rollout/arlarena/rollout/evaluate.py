"""Evaluation on a fixed set: every policy gets the same tasks in the same order, with the same sampling seeds.

If a service fails, the episode is played again. If all retries fail, the episode counts as an error, not as a failure
of the policy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from arlarena.proto.atomic_files import open_atomic
from arlarena.proto.records.episode_lines import SCHEMA, EpisodeLine
from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import Sampling, Task, Trajectory, Turn
from arlarena.rollout.episode import FAULT, PROMPT_TOO_LONG, Assignment, EpisodeRecord
from arlarena.rollout.evaluation.sets.digest import tasks_digest
from arlarena.rollout.evaluation.statistics.intervals import Interval, clustered, success_rate, task_means
from arlarena.rollout.play_all import EvalResults
from arlarena.rollout.settings import EvaluationSettings
from arlarena.rollout.worker import version_range

T = TypeVar("T")
# One reason why an episode has no turn: the task was already finished after the reset.
OVER_AT_RESET = "over at reset"


def eval_assignment(environment: str, split: str, seed: int, index: int, attempt: int) -> Assignment:
    """Returns the assignment of one attempt of one task, with its seeds.

    The sampling seeds depend on environment, split, seed, task index and attempt.
    """
    # Sampling seeds are hashes of a text that begins with "panel". Another word would change all evaluation results.
    return Assignment(
        id=f"{split}-{index}-{attempt}",
        task=Task(environment, split, index, seed),
        seed_key=f"panel/{environment}/{split}/{seed}/{index}/{attempt}",
    )


def eval_assignments(settings: EvaluationSettings, environment: str) -> list[Assignment]:
    """Returns one assignment for each attempt of each task (see `eval_assignment`)."""
    return [
        eval_assignment(environment, settings.split, settings.seed, index, attempt)
        for index in range(settings.first, settings.first + settings.count)
        for attempt in range(settings.attempts)
    ]


def eval_sampling(settings: EvaluationSettings) -> Sampling:
    """Returns the sampling parameters of an evaluation."""
    return Sampling(settings.temperature, settings.top_p, settings.top_k, settings.max_tokens)


def _by_task(pairs: Sequence[tuple[Assignment, EpisodeRecord]], values: Iterable[T]) -> dict[int, list[T]]:
    """Returns `values` (one value per episode), grouped by task."""
    tasks: dict[int, list[T]] = defaultdict(list)
    for (assignment, _), value in zip(pairs, values, strict=True):
        tasks[assignment.task.index].append(value)
    return dict(tasks)


def _success(pairs: Sequence[tuple[Assignment, EpisodeRecord]]) -> tuple[Interval, str]:
    return success_rate(_by_task(pairs, [episode.trajectory.success for _, episode in pairs]))


def _turn_share(turns: Sequence[Turn], marks: Sequence[bool]) -> float | None:
    return round(sum(marks) / len(turns), 4) if turns else None


def _mean(pairs: Sequence[tuple[Assignment, EpisodeRecord]], values: Sequence[float]) -> dict[str, Any]:
    """Returns the mean of `values` (one value per episode): the mean over each task's episodes, then over tasks.

    `ci95` is the 95 % interval of the mean, clustered by task. If there is only one task, `ci95` is None.
    """
    tasks = _by_task(pairs, values)
    interval = clustered(tasks)
    several_tasks = len(tasks) > 1
    return {"mean": round(interval.mean, 4), "ci95": interval.rounded() if several_tasks else None}


def _difficulty_table(pairs: Sequence[tuple[Assignment, EpisodeRecord]]) -> list[dict[str, Any]]:
    classes: dict[int, list[tuple[Assignment, EpisodeRecord]]] = defaultdict(list)
    for pair in pairs:
        moves = pair[1].first.metadata.optimal_moves
        if moves is not None:
            classes[moves].append(pair)
    rows = []
    for moves, members in sorted(classes.items()):
        interval, _ = _success(members)
        row = {
            "optimal_moves": moves,
            "n": len(members),
            "success": round(interval.mean, 4),
            "ci95": interval.rounded(),
        }
        rows.append(row)
    return rows


def _kind_table(pairs: Sequence[tuple[Assignment, EpisodeRecord]]) -> list[dict[str, Any]]:
    """Returns the success rate for each kind of task. The list is empty if the environment has no kinds."""
    kinds: dict[str, list[tuple[Assignment, EpisodeRecord]]] = defaultdict(list)
    for pair in pairs:
        kinds[pair[1].first.metadata.kind].append(pair)
    rows = []
    for kind, members in sorted(kinds.items()) if any(kinds) else ():
        interval, _ = _success(members)
        rows.append({"kind": kind, "n": len(members), "success": round(interval.mean, 4), "ci95": interval.rounded()})
    return rows


def _versions(trajectories: Sequence[Trajectory]) -> list[str]:
    versions = version_range(trajectories)
    return sorted({str(version) for version in versions}) if versions else []


def _mean_metrics(pairs: Sequence[tuple[Assignment, EpisodeRecord]]) -> dict[str, float]:
    """Returns the mean of each metric: the mean over each task's episodes, then over tasks.

    If an episode lacks a metric, its value counts as 0. The metric of a fault is 1 in each episode that ended with this
    fault, so its mean is the share of these episodes.
    """
    metrics = [episode.trajectory.metrics for _, episode in pairs]
    return {
        name: round(float(task_means(_by_task(pairs, [one.get(name, 0.0) for one in metrics]))[0].mean()), 4)
        for name in sorted({name for one in metrics for name in one})
    }


def summarise(
    settings: EvaluationSettings,
    environment: str,
    assignments: Sequence[Assignment],
    played: EvalResults,
    wall_s: float,
) -> dict[str, Any]:
    """Returns the result of the evaluation as a JSON object. `arlarena/proto/metrics.toml` defines the metrics.

    Shares are in [0, 1]. `ci95`: 95 % intervals. `errors`: number of attempts without a result. `without_turns`: number
    of episodes that ended before the policy's first turn.
    """
    pairs = [(assignments[position], episode) for position, episode in sorted(played.episodes.items())]
    trajectories = [episode.trajectory for _, episode in pairs]
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": environment,
        "eval_set": {
            "split": settings.split,
            "first": settings.first,
            "n": settings.count,
            "attempts": settings.attempts,
            "seed": settings.seed,
            "digest": tasks_digest((assignment.task.id, episode.content_key) for assignment, episode in pairs),
        },
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "max_tokens": settings.max_tokens,
        "episodes": len(pairs),
        "errors": len(assignments) - len(pairs),
        "error_examples": sorted(set(played.errors.values()))[:3],
        "restarts": played.restarts,
        **_without_turns(trajectories),
        "wall_s": round(wall_s, 3),
    }
    if pairs:
        result |= _metrics(pairs, trajectories, turns)
    return result


def _without_turns(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Returns the number of episodes without a turn, and up to three reasons."""
    reasons = [trajectory.fault or OVER_AT_RESET for trajectory in trajectories if not trajectory.turns]
    return {"without_turns": len(reasons), "without_turns_reasons": sorted(set(reasons))[:3]}


def no_prompt_fits(played: EvalResults) -> str | None:
    """Returns an error message if no episode had a turn and some prompt was too long. Otherwise returns None."""
    trajectories = [episode.trajectory for episode in played.episodes.values()]
    faults = [trajectory.fault for trajectory in trajectories if FAULT + PROMPT_TOO_LONG in trajectory.metrics]
    if not faults or any(trajectory.turns for trajectory in trajectories):
        return None
    return (
        f"no prompt fits the policy's context, so no episode had a turn: {min(faults)}; either give the policy a "
        f"longer context ([policy.tiny] max_positions, or --max-model-len of vLLM), or make the prompts shorter "
        f"([environment.options] template or history)"
    )


def _metrics(
    pairs: Sequence[tuple[Assignment, EpisodeRecord]], trajectories: Sequence[Trajectory], turns: Sequence[Turn]
) -> dict[str, Any]:
    interval, method = _success(pairs)
    return {
        "versions": _versions(trajectories),
        "success": round(interval.mean, 4),
        "ci95": interval.rounded(),
        "ci_method": method,
        "format_valid": _turn_share(turns, [turn.format_valid for turn in turns]),
        "action_valid": _turn_share(turns, [turn.action_valid for turn in turns]),
        "length_finished": _turn_share(turns, [turn.finish_reason == "length" for turn in turns]),
        "return": _mean(pairs, [trajectory.total_reward for trajectory in trajectories]),
        "turns": _mean(pairs, [float(len(trajectory.turns)) for trajectory in trajectories]),
        "policy_errors": sum(trajectory.outcome == "policy_error" for trajectory in trajectories),
        "behaviour": _mean_metrics(pairs),
        "by_difficulty": _difficulty_table(pairs),
        "by_kind": _kind_table(pairs),
        "results": [
            [assignment.task.index, int(trajectory.success), round(trajectory.total_reward, 4), len(trajectory.turns)]
            for (assignment, _), trajectory in zip(pairs, trajectories, strict=True)
        ],
    }


def describe(result: dict[str, Any]) -> str:
    """Returns a summary for the terminal: one line for all tasks, and one line for each kind of task.

    If the environment's data are not official, the last line describes the data.
    """
    eval_set = result["eval_set"]
    title = f"{result['environment']} {eval_set['split']} n={eval_set['n']} k={eval_set['attempts']}"
    title += f" T={result['temperature']:g}"
    without_turns = ""
    if result["without_turns"]:
        without_turns = f", without a turn {result['without_turns']} ({'; '.join(result['without_turns_reasons'])})"
    if "success" not in result:
        return f"{title}: no episode could be played, {counted(result['errors'], 'error')}"
    low, high = result["ci95"]
    shares = "no replies"
    if result["format_valid"] is not None:
        shares = f"well-formed {100 * result['format_valid']:.1f} %, valid {100 * result['action_valid']:.1f} %"
    data = result.get("data") or {}
    return (
        f"{title}: success {100 * result['success']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] {shares}, "
        f"return {result['return']['mean']:.2f}, turns {result['turns']['mean']:.1f}, errors {result['errors']}"
        f"{without_turns}, {result['wall_s']:.1f} s"
        + "".join(
            f"\n    {row['kind'] or '(no kind)'}: {100 * row['success']:.1f} % of {row['n']}"
            for row in result["by_kind"]
        )
        + (f"\n    {data['description']}" if data.get("official") is False else "")
    )


def episode_line(assignment: Assignment, episode: EpisodeRecord) -> EpisodeLine:
    """Returns the line of one episode in the episodes file."""
    return EpisodeLine.of(
        assignment.task,
        episode.trajectory,
        optimal_moves=episode.first.metadata.optimal_moves,
        final_observation=episode.last.observation.text,
    )


def write_episodes(
    path: Path, assignments: Sequence[Assignment], played: EvalResults, count: int | None, max_bytes: int
) -> int:
    """Write the first `count` episodes (None: all episodes) as JSON lines, atomically.

    The file has at most `max_bytes` bytes. The first episode that does not fit and all later episodes are left out.
    Returns the number of written episodes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    size = written = 0
    with open_atomic(path) as file:
        for position, episode in sorted(played.episodes.items())[:count]:
            line = msgspec.json.encode(episode_line(assignments[position], episode)) + b"\n"
            size += len(line)
            if size > max_bytes:
                break
            file.write(line)
            written += 1
    return written
