"""The summary of an evaluation: success, score and other figures with intervals, and totals of usage and cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from arlarena.rollout.evaluation.models.protocol import TokenUsage
from arlarena.rollout.evaluation.records import AttemptRecord, EvaluationPlan
from arlarena.rollout.evaluation.statistics.behaviour import mean_behaviour
from arlarena.rollout.evaluation.statistics.intervals import Interval, clustered, success_rate, unit_mean
from arlarena.rollout.evaluation.statistics.pass_at_k import ks, mean_pass_at_k
from arlarena.rollout.evaluation.statistics.tasks import by_task, records_digest, results
from arlarena.rollout.evaluation.totals import total_dollars, total_usage

SUMMARY_SCHEMA = 1
# The cost of an attempt in US dollars, or None if a price or a number of tokens is unknown.
CostOf = Callable[[AttemptRecord], float | None]


class Figure(msgspec.Struct, frozen=True):
    """A mean and its 95 % interval. `ci95`: None if the interval is unbounded, because there is only one task."""

    mean: float
    ci95: tuple[float, float] | None


class PassFigure(msgspec.Struct, frozen=True):
    """The mean of pass@k over the tasks with at least k scored attempts. `tasks`: number of these tasks."""

    k: int
    mean: float
    ci95: tuple[float, float]
    tasks: int


class KindFigures(msgspec.Struct, frozen=True):
    """The figures of the scored attempts of one kind of task."""

    tasks: int
    attempts: int
    success: Figure
    score: Figure


class Results(msgspec.Struct, frozen=True, rename={"total_reward": "return"}):
    """The figures of the scored attempts.

    Each figure is the mean over each task's scored attempts, then the mean over tasks. Tasks may have different numbers
    of scored attempts, for example in an unfinished evaluation. All intervals are clustered by task: see `intervals`.

    Attributes:
        tasks: number of tasks with a scored attempt.
        success: success rate.
        success_method: the method of the interval of `success`.
        score: the environment's score in [0, 1].
        total_reward: sum of rewards of an attempt; `return` in JSON.
        turns: number of turns of an attempt.
        avg_at_k: equal to `success`. If each task has k attempts, avg@k is the usual name of this figure.
        pass_at_k: estimates of pass@k, for k = 1, 2, 4, … and the maximum number of attempts of a task.
        by_kind: figures by the kind of task; empty if the environment has no kinds.
        behaviour: mean counts per attempt (see `behaviour.mean_behaviour`).
    """

    tasks: int
    success: Figure
    success_method: str
    score: Figure
    total_reward: Figure
    turns: Figure
    avg_at_k: Figure
    pass_at_k: list[PassFigure]
    by_kind: dict[str, KindFigures]
    behaviour: dict[str, float]


class Part(msgspec.Struct, frozen=True):
    """An environment of an evaluation, or the complete evaluation.

    Attributes:
        n: number of planned tasks.
        k: number of planned attempts of each task.
        planned, scored, policy_errors, infra_errors, model_errors, unfinished: numbers of attempts.
            `scored` includes `policy_errors`. planned = scored + infra_errors + model_errors + unfinished.
        digest: digest of the tasks of the scored attempts. Results are comparable if their digests are equal.
        requests, usage: totals of all finished attempts, including attempts that are not scored. A number of tokens is
            None if the model's API did not report it for every reply.
        cost: total cost in US dollars; None if the cost of at least one attempt is unknown.
        seconds: sum of the attempts' durations.
        results: None if no attempt is scored.
    """

    n: int
    k: int
    planned: int
    scored: int
    policy_errors: int
    infra_errors: int
    model_errors: int
    unfinished: int
    digest: str
    requests: int
    usage: TokenUsage
    cost: float | None
    seconds: float
    results: Results | None


class Summary(msgspec.Struct, frozen=True):
    """The summary of an evaluation: summary.json.

    Attributes:
        plan: `EvaluationPlan.identity()`.
        total: figures over all environments. Each task has the same weight.
        environments: figures of each environment, by its name in the plan.
    """

    schema: int
    plan: str
    model: str
    strategy: str
    total: Part
    environments: dict[str, Part]

    def to_json(self) -> bytes:
        """Return the summary as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def summarise_records(plan: EvaluationPlan, records: Iterable[AttemptRecord], cost_of: CostOf | None = None) -> Summary:
    """Return the summary of a finished or unfinished evaluation.

    Args:
        plan: plan of the evaluation.
        records: the records of attempts, in the order of the journal: the last record of an attempt is its result.
            Records of attempts that are not in the plan are ignored.
        cost_of: returns the cost of an attempt. None: all costs are unknown.
    """
    tasks = {one.name: set(one.indices) for one in plan.environments}
    splits = {one.name: one.split for one in plan.environments}
    valid = [
        record
        for record in results(records)
        if record.key.index in tasks.get(record.key.environment, ())
        and record.key.split == splits[record.key.environment]
        and 0 <= record.key.attempt < plan.attempts
    ]
    parts = {
        name: _part(len(indices), plan.attempts, [one for one in valid if one.key.environment == name], cost_of)
        for name, indices in tasks.items()
    }
    total = _part(sum(map(len, tasks.values())), plan.attempts, valid, cost_of)
    return Summary(SUMMARY_SCHEMA, plan.identity(), plan.model, plan.strategy, total, parts)


def results_of(records: Sequence[AttemptRecord]) -> Results | None:
    """Return the figures of the scored attempts, or None if no attempt is scored. `records`: one record per attempt."""
    scored = [record for record in records if record.scored]
    if not scored:
        return None
    outcomes = by_task(scored, lambda record: record.success)
    success, method = success_rate(outcomes)
    return Results(
        tasks=len(outcomes),
        success=_figure(success),
        success_method=method,
        score=_figure(unit_mean(by_task(scored, lambda record: record.score))),
        total_reward=_figure(clustered(by_task(scored, lambda record: record.total_reward))),
        turns=_figure(clustered(by_task(scored, lambda record: float(record.steps)))),
        avg_at_k=_figure(success),
        pass_at_k=[_pass_figure(outcomes, k) for k in ks(max(map(len, outcomes.values())))],
        by_kind=_kinds(scored),
        behaviour=mean_behaviour(scored),
    )


def _part(n: int, k: int, records: Sequence[AttemptRecord], cost_of: CostOf | None) -> Part:
    def number(status: str) -> int:
        return sum(record.status == status for record in records)

    return Part(
        n=n,
        k=k,
        planned=n * k,
        scored=sum(record.scored for record in records),
        policy_errors=number("policy_error"),
        infra_errors=number("infra_error"),
        model_errors=number("model_error"),
        unfinished=n * k - len(records),
        digest=records_digest(records),
        requests=sum(record.requests for record in records),
        usage=total_usage(records),
        cost=total_dollars(map(cost_of, records)) if cost_of else None,
        seconds=math.fsum(record.seconds for record in records),
        results=results_of(records),
    )


def _kinds(scored: Sequence[AttemptRecord]) -> dict[str, KindFigures]:
    kinds = sorted({record.kind for record in scored})
    if not any(kinds):
        return {}
    return {kind: _kind_figures([record for record in scored if record.kind == kind]) for kind in kinds}


def _kind_figures(members: Sequence[AttemptRecord]) -> KindFigures:
    outcomes = by_task(members, lambda record: record.success)
    return KindFigures(
        tasks=len(outcomes),
        attempts=len(members),
        success=_figure(success_rate(outcomes)[0]),
        score=_figure(unit_mean(by_task(members, lambda record: record.score))),
    )


def _pass_figure(outcomes: Mapping[tuple[str, str, int], Sequence[bool]], k: int) -> PassFigure:
    interval, tasks = mean_pass_at_k(outcomes, k)
    return PassFigure(k, interval.mean, (interval.low, interval.high), tasks)


def _figure(interval: Interval) -> Figure:
    bounded = math.isfinite(interval.low) and math.isfinite(interval.high)
    return Figure(interval.mean, (interval.low, interval.high) if bounded else None)
