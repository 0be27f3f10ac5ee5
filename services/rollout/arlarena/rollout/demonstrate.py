"""Records demonstrations: successful episodes of the environment's expert or of a model on a server.

Each episode is written as a group of size 1. Only episodes with a score above a threshold are written. Recording a
model this way is the sampling step of rejection fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from arlarena.proto.trajectory import Group, Sampling, Task, write_groups
from arlarena.rollout.episode import Assignment, EpisodeRecord
from arlarena.rollout.play_all import EvalResults

DuplicateCriterion = Literal["room", "prompt"]


@dataclass(slots=True)
class OutcomeCounts:
    """Counts of episodes by outcome.

    `asked`: number of requested episodes. Each of them is counted in exactly one of four fields. `errors`: the episode
    has no result. `rejected`: its score is too low, or it has no turn. `duplicates`: a duplicate of the episode was
    already written. `written`: the episode is in the file.

    `turns` and `response_tokens`: totals of the written episodes.
    """

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
    """Returns `attempts` assignments for each task of `indices`, in order. `seed`: the reset seed of every episode."""
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
    # Record the default parameters of `Sampling` instead of the teacher's parameters: behaviour cloning computes
    # log-probs at the default temperature, 1.
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


def _key(episode: EpisodeRecord, criterion: DuplicateCriterion) -> str:
    # A state key depends on the task. The criterion "prompt" therefore compares prompts instead of state keys.
    return episode.content_key if criterion == "room" else episode.first.prompt


def _distinct(
    assignments: Sequence[Assignment],
    played: EvalResults,
    criterion: DuplicateCriterion,
    min_score: float,
    counts: OutcomeCounts,
) -> Iterator[Group]:
    """Yields one group for each distinct episode with a score above `min_score`, in the order of `assignments`.

    Skips failed episodes, episodes without turns, and duplicates. Updates `counts`.
    """
    seen: set[str] = set()
    for position, assignment in enumerate(assignments):
        episode = played.episodes.get(position)
        if episode is None:
            counts.errors += 1
        elif episode.trajectory.score <= min_score or not episode.trajectory.turns:
            counts.rejected += 1
        elif (key := _key(episode, criterion)) in seen:
            counts.duplicates += 1
        else:
            seen.add(key)
            counts.written += 1
            counts.turns += len(episode.trajectory.turns)
            counts.response_tokens += int(episode.trajectory.metrics["episode_response_tokens"])
            yield _group(assignment, episode)


def write_demonstrations(
    path: Path,
    assignments: Sequence[Assignment],
    played: EvalResults,
    criterion: DuplicateCriterion = "room",
    min_score: float = 0.9,
) -> dict[str, Any]:
    """Write the distinct episodes with a score above `min_score` to `path`. Returns `OutcomeCounts` as a dict.

    `criterion`: episodes are duplicates if they have the same `content_key` ("room") or the same first prompt
    ("prompt"). In Sokoban, mirror images of a room have the same `content_key`.
    """
    counts = OutcomeCounts(asked=len(assignments))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_groups(path, _distinct(assignments, played, criterion, min_score, counts))
    return asdict(counts)
