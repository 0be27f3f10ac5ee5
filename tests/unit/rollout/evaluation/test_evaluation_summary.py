"""The summary of records: figures, errors apart, totals that are None where a number is unknown, and JSON."""

import hashlib
import json

import msgspec
import pytest
from support.evaluation.record_support import attempt, plan

from arlarena.rollout.evaluation.models.protocol import TokenUsage
from arlarena.rollout.evaluation.records import AttemptRecord
from arlarena.rollout.evaluation.statistics.behaviour import PATTERNS
from arlarena.rollout.evaluation.statistics.intervals import clustered, success_rate, unit_mean
from arlarena.rollout.evaluation.statistics.paired import compare
from arlarena.rollout.evaluation.statistics.pass_at_k import mean_pass_at_k
from arlarena.rollout.evaluation.statistics.summary import Summary, summarise_records


def corridor_records() -> list[AttemptRecord]:
    return [
        attempt(
            index,
            number,
            success=(index + number) % 3 == 0,
            kind="even" if index % 2 == 0 else "odd",
            score=0.25 + 0.5 * ((index + number) % 3 == 0),
            steps=index + number,
            usage=TokenUsage(input=100, output=10),
            requests=2,
        )
        for index in range(6)
        for number in range(4)
    ]


def test_figures_are_those_of_the_scored_attempts() -> None:
    records = corridor_records()
    outcomes = {i: [(i + k) % 3 == 0 for k in range(4)] for i in range(6)}
    summary = summarise_records(plan({"corridor": tuple(range(6))}, 4), records)
    part = summary.environments["corridor"]
    assert part == summary.total
    assert (part.n, part.k, part.planned, part.scored, part.unfinished) == (6, 4, 24, 24, 0)
    results = part.results
    assert results is not None
    interval, method = success_rate(outcomes)
    assert (results.success.mean, results.success.ci95) == (interval.mean, (interval.low, interval.high))
    assert (results.success_method, results.avg_at_k) == (method, results.success)
    scores = unit_mean({i: [0.25 + 0.5 * won for won in won_all] for i, won_all in outcomes.items()})
    assert (results.score.mean, results.score.ci95) == (pytest.approx(scores.mean), (scores.low, scores.high))
    turns = clustered({i: [float(i + k) for k in range(4)] for i in range(6)})
    assert (results.turns.mean, results.turns.ci95) == (turns.mean, (turns.low, turns.high))
    assert results.total_reward.mean == pytest.approx(10 * interval.mean)
    assert [figure.k for figure in results.pass_at_k] == [1, 2, 4]
    assert results.pass_at_k[1].mean == mean_pass_at_k(outcomes, 2)[0].mean
    assert results.pass_at_k[2].mean == 1.0
    assert {kind: (one.tasks, one.attempts) for kind, one in results.by_kind.items()} == {
        "even": (3, 12),
        "odd": (3, 12),
    }
    even = success_rate({i: outcomes[i] for i in (0, 2, 4)})[0]
    assert results.by_kind["even"].success.mean == pytest.approx(even.mean)


def test_errors_and_unfinished_attempts_are_counted_and_not_scored() -> None:
    records = [
        attempt(0, 0, success=True),
        attempt(0, 1, status="policy_error"),
        attempt(1, 0, status="infra_error"),
        attempt(1, 1, status="model_error"),
        attempt(2, 0, status="infra_error"),
        attempt(2, 0, success=True),  # played again after the failure
        attempt(9, 0, success=True),  # not in the plan
        attempt(0, 2, success=True),
    ]
    part = summarise_records(plan({"corridor": (0, 1, 2)}, 2), records).total
    numbers = (part.planned, part.scored, part.policy_errors, part.infra_errors, part.model_errors, part.unfinished)
    assert numbers == (6, 3, 1, 1, 1, 1)
    assert part.results is not None
    assert (part.results.tasks, part.results.success.mean) == (2, pytest.approx((0.5 + 1) / 2))
    assert part.results.avg_at_k == part.results.success
    assert [(figure.k, figure.tasks) for figure in part.results.pass_at_k] == [(1, 2), (2, 1)]
    nothing = summarise_records(plan({"corridor": (0, 1)}), [attempt(0, status="infra_error")]).total
    assert (nothing.scored, nothing.unfinished, nothing.results) == (0, 1, None)


def test_all_figures_are_means_over_tasks_of_the_means_of_their_attempts() -> None:
    # An unfinished evaluation: tasks have 4, 2 and 1 scored attempts.
    won = {0: [True, False, False, True], 1: [False, False], 2: [True]}
    records = [
        attempt(
            index, number, success=success, steps=2 + number, total_reward=3.0 * success,
            metrics={"repeated_actions": float(number), **dict.fromkeys(PATTERNS[1:], 0.0)},
        )
        for index, results in won.items()
        for number, success in enumerate(results)
    ]  # fmt: skip
    part = summarise_records(plan({"corridor": (0, 1, 2)}, 4), records).total
    results = part.results
    assert (part.unfinished, results is not None) == (5, True)
    assert results is not None
    rate = (2 / 4 + 0 + 1) / 3
    assert results.success.mean == pytest.approx(rate)
    assert results.score.mean == pytest.approx(rate)  # the score of `attempt` is its success
    assert results.total_reward.mean == pytest.approx(3 * rate)
    assert results.turns.mean == pytest.approx((2 + 1.5 + 2 + 0.5 + 2) / 3)
    assert results.behaviour["repeated_actions"] == pytest.approx((1.5 + 0.5 + 0) / 3)
    assert results.pass_at_k[0].mean == results.avg_at_k.mean == results.success.mean
    compared = compare(records, records)
    assert compared.first == pytest.approx(rate)


def test_environments_are_apart_and_together() -> None:
    records = [attempt(i, success=True) for i in range(3)] + [attempt(i, environment="maze") for i in range(5)]
    summary = summarise_records(plan({"corridor": (0, 1, 2), "maze": (0, 1, 2, 3, 4)}), records)
    means = {name: part.results and part.results.success.mean for name, part in summary.environments.items()}
    assert means == {"corridor": 1.0, "maze": 0.0}
    assert summary.total.results is not None
    assert (summary.total.n, summary.total.results.success.mean) == (8, 3 / 8)


def test_totals_are_none_where_a_number_is_unknown() -> None:
    planned = plan({"corridor": (0, 1, 2)})
    known = TokenUsage(input=100, output=10, cached=0)
    records = [attempt(0, usage=known, requests=1), attempt(1, usage=known, requests=3, status="infra_error")]
    part = summarise_records(planned, records, lambda record: 0.25).total
    assert (part.usage, part.requests, part.cost) == (TokenUsage(200, 20, None, 0), 4, 0.5)
    unknown = attempt(2, usage=TokenUsage(input=100), requests=1)
    part = summarise_records(planned, [*records, unknown], lambda record: 0.25 if record.usage.output else None).total
    assert (part.usage, part.cost) == (TokenUsage(300, None, None, None), None)
    assert summarise_records(planned, records).total.cost is None
    # An attempt without requests used no tokens.
    assert summarise_records(planned, [*records, attempt(2)]).total.usage == TokenUsage(200, 20, None, 0)


def test_the_digest_is_that_of_training_evaluations() -> None:
    records = [attempt(i, k) for i in range(2) for k in range(2)]
    lines = ["corridor/test/0 room0"] * 2 + ["corridor/test/1 room1"] * 2
    expected = hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()
    planned = plan({"corridor": (0, 1)}, 2)
    assert summarise_records(planned, records[::-1]).total.digest == expected
    assert summarise_records(planned, records[:3]).total.digest != expected


def test_json_round_trip_and_names() -> None:
    summary = summarise_records(plan({"corridor": tuple(range(6))}, 4), corridor_records())
    text = summary.to_json()
    assert msgspec.json.decode(text, type=Summary) == summary
    body = json.loads(text)
    assert body["total"]["results"]["return"]["mean"] == pytest.approx(10 / 3)
    assert body["total"]["cost"] is None
    alone = summarise_records(plan({"corridor": (0,)}), [attempt(0, success=True)])
    assert json.loads(alone.to_json())["total"]["results"]["turns"] == {"mean": 5.0, "ci95": None}
