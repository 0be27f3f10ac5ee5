"""What reports need of an evaluation: its files, and the figures of `statistics`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.models.protocol import TokenUsage
from arlarena.rollout.evaluation.records import AttemptKey, AttemptRecord, EnvironmentPlan, EvaluationPlan

PLAN, JOURNAL, IMAGES = "plan.json", "journal.jsonl", "images"
# Only lines with an `AttemptRecord` contain this: inside of a JSON text, each quotation mark follows a backslash.
_END = b'"event":"end"'


class FigureLike(Protocol):
    """A mean with its 95 % interval, as `statistics.summary.Figure`."""

    @property
    def mean(self) -> float: ...  # noqa: D102
    @property
    def ci95(self) -> tuple[float, float] | None: ...  # noqa: D102


class PassLike(Protocol):
    """An estimate of pass@k, as `statistics.summary.PassFigure`."""

    @property
    def k(self) -> int: ...  # noqa: D102
    @property
    def mean(self) -> float: ...  # noqa: D102


class ResultsLike(Protocol):
    """The figures of the scored attempts, as `statistics.summary.Results`."""

    @property
    def tasks(self) -> int: ...  # noqa: D102
    @property
    def success(self) -> FigureLike: ...  # noqa: D102
    @property
    def score(self) -> FigureLike: ...  # noqa: D102
    @property
    def turns(self) -> FigureLike: ...  # noqa: D102
    @property
    def pass_at_k(self) -> Sequence[PassLike]: ...  # noqa: D102
    @property
    def behaviour(self) -> Mapping[str, float]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """The figures of one group of attempts: an environment, or one kind of its tasks.

    Attributes:
        n: number of tasks with at least one scored attempt.
        k: number of attempts per task that the plan asks for.
        attempts: number of scored attempts.
        success: mean success rate in [0, 1]; None without scored attempts.
        ci95: 95 % confidence interval of `success`, clustered by task.
        score: mean score in [0, 1].
        turns: mean number of turns.
        pass_at: for each k, the unbiased estimate of pass@k.
        errors: for each status that is not scored, the number of attempts.
        behaviour: mean counts of an attempt.
    """

    n: int
    k: int
    attempts: int
    success: float | None = None
    ci95: tuple[float, float] | None = None
    score: float | None = None
    turns: float | None = None
    pass_at: Mapping[int, float] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    behaviour: Mapping[str, float] = field(default_factory=dict)


# Computes the figures of a group from its attempts and the number of attempts per task of the plan.
Summarise = Callable[[Sequence[AttemptRecord], int], GroupFigures]
# Computes the figures of the scored attempts, or None if there are none: `statistics.summary.results_of`.
ResultsOf = Callable[[Sequence[AttemptRecord]], ResultsLike | None]


def summarise_with(results_of: ResultsOf) -> Summarise:
    """Returns a function that computes the figures of a group. `results_of`: `statistics.summary.results_of`."""

    def summarise(records: Sequence[AttemptRecord], k: int) -> GroupFigures:
        found = results_of(records)
        errors = Counter[str](record.status for record in records if not record.scored)
        if found is None:
            return GroupFigures(0, k, 0, errors=errors)
        return GroupFigures(
            n=found.tasks,
            k=k,
            attempts=sum(record.scored for record in records),
            success=found.success.mean,
            ci95=found.success.ci95,
            score=found.score.mean,
            turns=found.turns.mean,
            pass_at={one.k: one.mean for one in found.pass_at_k},
            errors=errors,
            behaviour=found.behaviour,
        )

    return summarise


@dataclass(frozen=True, slots=True)
class EnvironmentFigures:
    """The figures of one environment of the plan, and of the kinds of its tasks (empty if it has at most one kind)."""

    plan: EnvironmentPlan
    all: GroupFigures
    kinds: Mapping[str, GroupFigures]


@dataclass(frozen=True, slots=True)
class EvaluationResults:
    """An evaluation on the disk: its plan and the last record of each attempt, in the order of the plan."""

    path: Path
    plan: EvaluationPlan
    records: tuple[AttemptRecord, ...]

    def of(self, environment: str) -> list[AttemptRecord]:
        """Returns the records of one environment of the plan."""
        return [record for record in self.records if record.key.environment == environment]

    def figures(self, summarise: Summarise) -> list[EnvironmentFigures]:
        """Returns the figures of all environments, in the order of the plan."""
        return [
            environment_figures(one, self.of(one.name), self.plan.attempts, summarise) for one in self.plan.environments
        ]


def environment_figures(
    plan: EnvironmentPlan, records: Sequence[AttemptRecord], k: int, summarise: Summarise
) -> EnvironmentFigures:
    """Returns the figures of one environment. `k`: attempts per task."""
    kinds: dict[str, list[AttemptRecord]] = {}
    for record in records:
        kinds.setdefault(record.kind, []).append(record)
    by_kind = {kind: summarise(kinds[kind], k) for kind in sorted(kinds)} if len(kinds) > 1 else {}
    return EnvironmentFigures(plan, summarise(records, k), by_kind)


def total_usage(records: Iterable[AttemptRecord]) -> TokenUsage:
    """Returns the tokens of all attempts."""
    total = TokenUsage()
    for record in records:
        total += record.usage
    return total


def read_evaluation(directory: Path) -> EvaluationResults:
    """Read the plan and the results in the directory of an evaluation. A last line that a kill cut off is ignored.

    Raises:
        EvaluationError: a file is missing or damaged.
    """
    try:
        plan = msgspec.json.decode((directory / PLAN).read_bytes(), type=EvaluationPlan)
    except (OSError, msgspec.MsgspecError) as error:
        raise EvaluationError(f"{directory} is no directory of an evaluation: {error}") from error
    last: dict[AttemptKey, AttemptRecord] = {}
    number = 0
    try:
        with (directory / JOURNAL).open("rb") as file:
            for line in file:
                number += 1
                if line.endswith(b"\n") and _END in line:
                    record = msgspec.json.decode(line, type=AttemptRecord)
                    last[record.key] = record
    except OSError as error:
        raise EvaluationError(f"{directory / JOURNAL} cannot be read: {error}") from error
    except msgspec.DecodeError as error:
        raise EvaluationError(f"{directory / JOURNAL}, line {number} is damaged: {error}") from error
    order = {one.name: place for place, one in enumerate(plan.environments)}
    records = sorted(last.values(), key=lambda one: (order.get(one.key.environment, len(order)), one.key))
    return EvaluationResults(directory, plan, tuple(records))
