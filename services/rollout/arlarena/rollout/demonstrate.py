"""Records demonstrations: successful episodes of the environment's expert or of a served model, as groups of size 1.

With a model, this is the sampling part of rejection fine-tuning: episodes are played, and those above a score are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from arlarena.proto.trajectory import Group, Sampling, Task, write_groups
from arlarena.rollout.episode import Assignment, EpisodeRecord
from arlarena.rollout.play_all import EvalResults

Sameness = Literal["room", "prompt"]


@dataclass(slots=True)
class Count:
    """Outcome counts of the tasks. Each task is in exactly one of the last four counts."""

    asked: int = 0
    written: int = 0
    duplicates: int = 0
    rejected: int = 0
    errors: int = 0
    turns: int = 0
    response_tokens: int = 0


def demonstration_assignments(
    environment: str, split: str, indices: Sequence[int], seed: int, attempts: int = 1
) -> list[Assignment]:
    """Returns `attempts` assignments for each task of `indices`, in order. `seed`: the random seed of the episodes."""
    return [
        Assignment(
            f"{split}-{index}-{attempt}",
            Task(environment, split, index, seed),
            f"demonstration/{split}/{index}/{attempt}",
        )
        for index in indices
        for attempt in range(attempts)
    ]


def _group(assignment: Assignment, episode: EpisodeRecord) -> Group:
    version = episode.trajectory.turns[0].spans[0].version
    # Replies of an expert are not sampled. `sampling` contains the parameters with which the cloned policy is sampled.
    return Group(
        id=f"demonstration-{assignment.id}",
        task=assignment.task,
        size=1,
        trajectories=(episode.trajectory,),
        sampling=Sampling(),
        oldest=version,
        newest=version,
        worker=version.incarnation,
    )


def _key(episode: EpisodeRecord, same: Sameness) -> str:
    # The state key includes the task, so equal rooms of two tasks have different state keys.
    return episode.content_key if same == "room" else episode.first.prompt


def _distinct(
    assignments: Sequence[Assignment], played: EvalResults, same: Sameness, min_score: float, count: Count
) -> Iterator[Group]:
    """Yields one group for each episode with a score above `min_score`, in the order of `assignments`.

    Skips missing episodes, episodes without turns, and duplicates. Updates `count`.
    """
    seen: set[str] = set()
    for position, assignment in enumerate(assignments):
        episode = played.episodes.get(position)
        if episode is None:
            count.errors += 1
        elif episode.trajectory.score <= min_score or not episode.trajectory.turns:
            count.rejected += 1
        elif (key := _key(episode, same)) in seen:
            count.duplicates += 1
        else:
            seen.add(key)
            count.written += 1
            count.turns += len(episode.trajectory.turns)
            count.response_tokens += int(episode.trajectory.metrics["episode_response_tokens"])
            yield _group(assignment, episode)


def write_demonstrations(
    path: Path, assignments: Sequence[Assignment], played: EvalResults, same: Sameness = "room", min_score: float = 0.9
) -> dict[str, Any]:
    """Write the distinct episodes with a score above `min_score` to `path`. Returns the counts.

    `same`: which episodes are duplicates: those with the same room, or those with the same first prompt. Mirror images
    are the same room if the environment treats them as equal.
    """
    count = Count(asked=len(assignments))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_groups(path, _distinct(assignments, played, same, min_score, count))
    return asdict(count)
