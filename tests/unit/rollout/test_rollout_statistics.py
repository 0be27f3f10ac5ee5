"""Intervals against scipy, statsmodels-style formulas written out again, and coverage by simulation."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from arlarena.rollout.statistics import clustered, student_quantile, success_rate, wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (1, 3), (199, 512), (511, 512)])
def test_wilson_equals_the_roots_of_the_score_equation(successes: int, n: int) -> None:
    # The bounds are where |p - pi| = z sqrt(pi (1 - pi) / n): found here by root finding instead of the closed form.
    z, p = stats.norm.ppf(0.975), successes / n
    interval = wilson(successes, n)

    def gap(pi: float) -> float:
        return (p - pi) ** 2 - z * z * pi * (1 - pi) / n

    low = 0.0 if successes == 0 else optimize.brentq(gap, 1e-12, p * (1 - 1e-12))
    high = 1.0 if successes == n else optimize.brentq(gap, p + (1 - p) * 1e-12, 1 - 1e-12)
    assert interval.mean == p
    assert interval.low == pytest.approx(low, abs=1e-9)
    assert interval.high == pytest.approx(high, abs=1e-9)


def test_wilson_equals_scipy() -> None:
    expected = stats.binomtest(37, 120).proportion_ci(0.95, method="wilson")
    interval = wilson(37, 120)
    assert (interval.low, interval.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"successes = .* must be at least 0 and at most n"):
        wilson(successes, n)


@pytest.mark.parametrize("freedom", [1, 2, 3, 5, 10, 29, 133, 511, 5000, 20_000])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975, 0.999])
def test_student_quantile_equals_scipy(freedom: int, probability: float) -> None:
    expected = stats.t.ppf(probability, freedom)
    tolerance = 2e-4 if freedom >= 10_000 else 1e-7
    assert student_quantile(probability, freedom) == pytest.approx(expected, rel=tolerance, abs=1e-9)


def test_clustered_with_equal_attempts_is_the_interval_of_the_task_means() -> None:
    values = np.random.default_rng(0).normal(size=(12, 5)) + np.arange(12)[:, None]
    means = values.mean(axis=1)
    half = stats.t.ppf(0.975, 11) * means.std(ddof=1) / math.sqrt(12)
    interval = clustered({task: list(row) for task, row in enumerate(values)})
    assert interval.mean == pytest.approx(means.mean())
    assert (interval.low, interval.high) == (pytest.approx(means.mean() - half), pytest.approx(means.mean() + half))


def test_clustered_with_unequal_attempts_equals_the_sandwich_estimator() -> None:
    # Ordinary least squares on a constant with cluster-robust covariance: bread * meat * bread, times C / (C - 1).
    clusters = {"a": [1.0, 0.0, 1.0], "b": [0.0], "c": [1.0, 1.0], "d": []}
    y = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    groups = np.array([0, 0, 0, 1, 2, 2])
    design = np.ones((6, 1))
    residual = y - y.mean()
    bread = np.linalg.inv(design.T @ design)
    meat = sum(np.outer(s, s) for s in (design[groups == g].T @ residual[groups == g] for g in range(3)))
    error = math.sqrt(3 / 2 * (bread @ meat @ bread)[0, 0])
    interval = clustered(clusters)
    assert interval.mean == pytest.approx(y.mean())
    assert interval.high - interval.mean == pytest.approx(stats.t.ppf(0.975, 2) * error)


def test_one_task_alone_says_nothing_about_others() -> None:
    assert clustered({"only": [1.0, 0.0]}).high == math.inf
    interval, method = success_rate({"only": [True, False]})
    assert method == "wilson over tasks"
    assert interval.high - interval.low > 0.7


def test_clustered_needs_an_attempt() -> None:
    with pytest.raises(ValueError, match="no attempts"):
        clustered({"a": []})


def test_success_rate_chooses_the_method_by_attempts() -> None:
    assert success_rate({1: [True], 2: [False], 3: [True]}) == (wilson(2, 3), "wilson")
    _, method = success_rate({1: [True, False], 2: [False, False], 3: [True, True]})
    assert method == "clustered by task"
    certain, method = success_rate({task: [True] * 4 for task in range(30)})
    assert (certain.low, certain.high, method) == (wilson(30, 30).low, 1.0, "wilson over tasks")


def test_clustered_interval_covers_where_the_naive_one_does_not() -> None:
    # 30 tasks of 16 attempts whose rates differ much between tasks: 95 % of intervals must hold the true mean.
    rng = np.random.default_rng(1)
    held = naive_held = 0
    for _ in range(400):
        rates = rng.beta(0.3, 0.3, size=30)
        outcomes = rng.random((30, 16)) < rates[:, None]
        interval, _ = success_rate({task: list(row) for task, row in enumerate(outcomes)})
        held += interval.low <= 0.5 <= interval.high
        naive = wilson(int(outcomes.sum()), outcomes.size)
        naive_held += naive.low <= 0.5 <= naive.high
    assert 0.92 <= held / 400 <= 0.98
    assert naive_held / 400 < 0.75
