"""Recomputes the recorded figures of a step: `arlarena replay RUN/records/step-000020.records --model WEIGHTS --check`.

WEIGHTS are the weights before the step. Advantages, masks, log-probs, entropies, ratios and clip marks are computed
again from the recorded groups, and compared with the record.

Advantages are compared for all groups. Other figures are compared only for the groups of the step's first update. The
later updates start from other weights, and a run does not keep these weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from arlarena.proto.config import ConfigError
from arlarena.proto.records.group_records import (
    LENGTH_BYTES,
    GroupRecord,
    MemberRecord,
    StepRecord,
    TurnFigures,
    decode_frame,
)
from arlarena.proto.trajectory import SchemaError
from arlarena.trainer.batching.scoring import NotFinite, ScoredGroup, score, training_samples
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.metrics.recorder import collect_figures, usable_members
from arlarena.trainer.model.policy import load_policy
from arlarena.trainer.objectives import Recipe
from arlarena.trainer.settings import TrainerSettings

# Maximum size of a decompressed record, in bytes.
RECORD_BYTES = 1 << 30
FLOATS = ("log_probs", "old_log_probs", "reference_log_probs", "entropies", "ratios")


@dataclass(slots=True)
class RecordCheck:
    """The differences between the recorded figures of a step and the same figures, computed again.

    Attributes:
        groups: number of groups in the comparison of the advantages.
        tokens: number of tokens in the comparison of all other figures.
        differences: the largest absolute difference of each figure, by the name of the figure.
        marks: number of tokens with a different clip mark, plus number of turns with a different sequence mask.
    """

    groups: int = 0
    tokens: int = 0
    differences: dict[str, float] = field(default_factory=dict)
    marks: int = 0

    def add(self, name: str, recorded: Sequence[float], computed: Sequence[float]) -> None:
        """Compare the values of the figure `name`, and keep the largest difference.

        If `recorded` and `computed` have different lengths, the difference is infinite.
        """
        if len(recorded) != len(computed):
            largest = math.inf
        else:
            largest = max((abs(a - b) for a, b in zip(recorded, computed, strict=True)), default=0.0)
        self.differences[name] = max(self.differences.get(name, 0.0), largest)


def load_records(path: Path) -> tuple[StepRecord, list[GroupRecord]]:
    """Read a file of the folder RUN/records. Returns (record of the step, records of the step's groups).

    Raises:
        ConfigError: the file cannot be read, or a record is damaged.
    """
    try:
        head, *groups = _frames(path.read_bytes())
        return decode_frame(head, StepRecord, RECORD_BYTES), [
            decode_frame(g, GroupRecord, RECORD_BYTES) for g in groups
        ]
    except (OSError, ValueError) as error:  # SchemaError is a ValueError; an empty file also raises ValueError
        raise ConfigError(f"records {path}: {error}") from error


def _frames(data: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(data):
        start = offset + LENGTH_BYTES
        offset = start + int.from_bytes(data[offset:start], "little")
        if offset > len(data):
            raise SchemaError("the file ends within a record")
        yield data[start:offset]


def check_records(
    groups: Sequence[GroupRecord], model: str, recipe: Recipe, settings: TrainerSettings, reference: str | None = None
) -> RecordCheck:
    """Compute the figures of `groups` again, and compare them with the recorded figures.

    `model`: the policy with the weights before the step. `reference`: the reference policy of the run; None: use
    `model`, and do not compare log-probs of the reference policy.

    Raises:
        ConfigError: no group was in an update, a policy cannot be loaded, or an entropy or advantage is not finite.
    """
    trained = [each for each in groups if each.status in ("trained", "backfilled", "skipped")]
    if not trained:
        raise ConfigError("none of the recorded groups was trained on")
    policy = load_policy(model)
    learner = Learner(policy, load_policy(reference) if reference else None, recipe, settings)
    scored = _rescored(trained, learner)
    result = RecordCheck(groups=len(trained))
    for record, again in zip(trained, scored, strict=True):
        for number, member in enumerate(record.members):
            total = [settings.advantage_scale * value for value in again.advantages.total[number]]
            result.add("episode_advantages", member.episode_advantages, again.advantages.episode[number])
            result.add("step_advantages", member.step_advantages, _row(again.advantages.step, number))
            result.add("advantages", member.advantages, total)
    first = [(record, again) for record, again in zip(trained, scored, strict=True) if record.update == 0]
    if first:
        _compare_figures(result, first, learner, compare_reference=reference is not None)
    return result


def _row(values: Sequence[Sequence[float]], number: int) -> Sequence[float]:
    return values[number] if values else ()


def _rescored(records: Sequence[GroupRecord], learner: Learner) -> list[ScoredGroup]:
    settings = learner.settings
    groups = [record.group for record in records]
    digests = {span.version.digest for g in groups for t in g.trajectories for turn in t.turns for span in turn.spans}
    try:
        scored = score(
            learner.recipe,
            groups,
            StalenessPolicy(0, 0, dict.fromkeys(digests, 0)),
            invalid_penalty=settings.invalid_penalty,
            max_response_tokens=settings.max_response_tokens,
            entropy_fn=learner.mean_entropies,
            no_action_turns=settings.no_action_turns,
            growing=settings.rows == "episodes",
        )
    except NotFinite as error:
        raise ConfigError(f"the figures cannot be computed again: {error}") from error
    # A record does not contain the versions of the run, so `score` cannot know which members were usable. The usable
    # members are those with recorded figures (`MemberRecord.turns`).
    return [
        ScoredGroup(again.group, again.advantages, tuple(bool(member.turns) for member in record.members))
        for record, again in zip(records, scored, strict=True)
    ]


def _compare_figures(
    result: RecordCheck,
    pairs: Sequence[tuple[GroupRecord, ScoredGroup]],
    learner: Learner,
    *,
    compare_reference: bool,
) -> None:
    settings, part = learner.settings, [again for _, again in pairs]
    rows = training_samples(part, "", settings.advantage_scale, growing=settings.rows == "episodes")
    # With a learning rate of 0, gradient and weight decay do not change the weights.
    learner.update([rows], 0.0, [[number for number, _ in enumerate(usable_members(part))]])
    figures = collect_figures([(part, rows)], learner.row_figures)
    for record, _ in pairs:
        for number, member in enumerate(record.members):
            computed = figures.get((record.group.id, number), [])
            if len(computed) != len(member.turns):
                result.differences["turns"] = math.inf
                continue
            _compare_member(result, member, computed, compare_reference=compare_reference)


def _compare_member(
    result: RecordCheck, member: MemberRecord, computed: Sequence[TurnFigures], *, compare_reference: bool
) -> None:
    for old, new in zip(member.turns, computed, strict=True):
        result.tokens += len(old.clip)
        for name in FLOATS:
            if name != "reference_log_probs" or compare_reference:
                result.add(name, *(np.frombuffer(getattr(each, name), dtype="<f4").tolist() for each in (old, new)))
        result.marks += sum(a != b for a, b in zip(old.clip, new.clip, strict=True)) + (old.kept != new.kept)
