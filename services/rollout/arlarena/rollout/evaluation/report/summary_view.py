"""The figures of an evaluation in its reports. The package `statistics` computes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from arlarena.rollout.evaluation.directory import EvaluationResults
from arlarena.rollout.evaluation.records import AttemptRecord, EnvironmentPlan


class FigureLike(Protocol):
    """A mean with its 95 % interval, for example `statistics.summary.Figure`."""

    @property
    def mean(self) -> float: ...  # noqa: D102
    @property
    def ci95(self) -> tuple[float, float] | None: ...  # noqa: D102


class PassLike(Protocol):
    """An estimate of pass@k, for example `statistics.summary.PassFigure`."""

    @property
    def k(self) -> int: ...  # noqa: D102
    @property
    def mean(self) -> float: ...  # noqa: D102


class ResultsLike(Protocol):
    """The figures of the scored attempts, for example `statistics.summary.Results`."""

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
        k: planned number of attempts per task.
        attempts: number of scored attempts.
        success, score, turns: mean over tasks of each task's mean. `success` and `score` are in [0, 1]. None if no
            attempt is scored.
        ci95: 95 % confidence interval of `success`, clustered by task.
        pass_at: `pass_at[j]` is the estimate of pass@j, for j = 1, 2, 4, … and a task's maximum number of attempts.
        errors: number of attempts without a score, by status.
        behaviour: mean counts per attempt (see `behaviour.mean_behaviour`).
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


# Computes the figures of a group from its attempts and the planned number of attempts per task.
Summarise = Callable[[Sequence[AttemptRecord], int], GroupFigures]
# Computes the figures of the scored attempts, or None if no attempt is scored: `statistics.summary.results_of`.
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
    """The figures of one environment of the plan.

    `all`: the figures of all attempts. `kinds`: the figures of each kind of task; empty if there is at most one kind.
    """

    plan: EnvironmentPlan
    all: GroupFigures
    kinds: Mapping[str, GroupFigures]


def environment_figures(
    plan: EnvironmentPlan, records: Sequence[AttemptRecord], k: int, summarise: Summarise
) -> EnvironmentFigures:
    """Returns the figures of one environment. `k`: planned number of attempts per task."""
    kinds: dict[str, list[AttemptRecord]] = {}
    for record in records:
        kinds.setdefault(record.kind, []).append(record)
    by_kind = {kind: summarise(kinds[kind], k) for kind in sorted(kinds)} if len(kinds) > 1 else {}
    return EnvironmentFigures(plan, summarise(records, k), by_kind)


def figures_of(results: EvaluationResults, summarise: Summarise) -> list[EnvironmentFigures]:
    """Returns the figures of all environments, in the order of the plan."""
    plan = results.plan
    return [environment_figures(one, results.of(one.name), plan.attempts, summarise) for one in plan.environments]
