"""Intervals against scipy and formulas written out again. Their coverage: test_evaluation_coverage.py."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from arlarena.rollout.evaluation.statistics.intervals import (
    beta_bounds,
    clustered,
    effective_size,
    student_quantile,
    success_rate,
    unit_mean,
)


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (10, 10), (1, 3), (37, 120), (511, 512)])
def test_one_attempt_per_task_gives_the_clopper_pearson_interval(wins: int, n: int) -> None:
    # The bounds are the rates at which so many successes, or so few, have the probability 2.5 %.
    low = 0.0 if wins == 0 else optimize.brentq(lambda p: stats.binom.sf(wins - 1, n, p) - 0.025, 1e-9, 1 - 1e-9)
    high = 1.0 if wins == n else optimize.brentq(lambda p: stats.binom.cdf(wins, n, p) - 0.025, 1e-9, 1 - 1e-9)
    interval, method = success_rate({task: [task < wins] for task in range(n)})
    assert method == "Clopper-Pearson"
    assert interval.mean == wins / n
    assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-8), pytest.approx(high, abs=1e-8))
    exact = stats.binomtest(wins, n).proportion_ci(0.95, method="exact")
    assert (interval.low, interval.high) == (pytest.approx(exact.low), pytest.approx(exact.high))


@pytest.mark.parametrize("freedom", [1, 2.5, 29, 511, 20_000])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975, 0.999])
def test_student_quantile_inverts_the_integral_of_the_density(freedom: float, probability: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), abs=1e-9)


UNEQUAL = [[1, 0, 1], [0], [1, 1], [0, 0, 0, 1], [1], [0, 0], [0, 1, 0]]


def test_effective_size_follows_its_formula_with_unequal_attempts() -> None:
    # Written out again, task by task.
    rates = [sum(attempts) / len(attempts) for attempts in UNEQUAL]
    m = sum(rates) / 7
    variance = stats.sem(rates) ** 2
    freedom = min(6, 2 * 7 / (stats.kurtosis(rates, fisher=False) - 1))
    expected = m * (1 - m) / variance * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, freedom)) ** 2
    most = 49 / sum(1 / len(attempts) for attempts in UNEQUAL)
    size = effective_size(rates, [len(attempts) for attempts in UNEQUAL])
    assert size == pytest.approx(min(most, max(7, expected)))


def test_effective_size_has_bounds() -> None:
    # All attempts of a task are equal: as many independent attempts as tasks. A single task that differs from the
    # others in one attempt says little about the variance.
    assert effective_size([1.0] * 3 + [0.0] * 27, [16.0] * 30) == 30
    assert effective_size([0.0] * 30, [16.0] * 30) == 30
    assert effective_size([1.0, 1.0], [16.0, 4.0]) == 2
    assert effective_size([7 / 16], [16.0]) == 1
    rare = float(effective_size([1 / 16] + [0.0] * 29, [16.0] * 30))
    assert 30 <= rare < 480 / 2
    # The tasks' rates differ less than those of independent attempts.
    alike = [1 / 2, 7 / 16, 9 / 16] * 10
    assert float(effective_size(alike, [16.0] * 30)) == 480
    assert float(effective_size(alike, [16.0] * 15 + [4.0] * 15)) == pytest.approx(900 / (15 / 16 + 15 / 4))


def test_effective_size_of_many_evaluations_is_that_of_each() -> None:
    rates = np.random.default_rng(0).binomial(16, 0.3, (5, 30)) / 16
    many = effective_size(rates, [16.0] * 30)
    assert many.shape == (5,)
    assert list(many) == [float(effective_size(row, [16.0] * 30)) for row in rates]


def test_figures_with_unequal_attempts_weight_tasks_equally() -> None:
    outcomes = {task: [bool(value) for value in attempts] for task, attempts in enumerate(UNEQUAL)}
    values = {task: [float(value) for value in attempts] for task, attempts in enumerate(UNEQUAL)}
    mean = np.mean([np.mean(attempts) for attempts in UNEQUAL])
    assert mean != np.mean([value for attempts in UNEQUAL for value in attempts])
    assert success_rate(outcomes)[0].mean == pytest.approx(mean)
    assert unit_mean(values).mean == pytest.approx(mean)
    assert clustered(values).mean == pytest.approx(mean)


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_intervals_of_unfinished_evaluations_contain_the_true_mean_over_tasks(rate: float) -> None:
    # 30 tasks of different difficulty; the last 15 have only one of 8 attempts.
    random, counts = np.random.default_rng(1), np.array([8] * 15 + [1] * 15)
    rates = random.beta(3 * rate, 3 * (1 - rate), (4000, 30))
    means = random.binomial(counts, rates) / counts
    low, high = beta_bounds(means.mean(-1), effective_size(means, counts))
    assert ((low <= rate) & (rate <= high)).mean() >= 0.93
    assert (high - low).mean() < 0.4


def test_the_interval_of_several_attempts_is_between_that_of_tasks_and_that_of_attempts() -> None:
    rng = np.random.default_rng(3)
    rates = rng.beta(0.6, 1.4, 60)
    outcomes = {task: list(rng.random(8) < rate) for task, rate in enumerate(rates)}
    interval, method = success_rate(outcomes)
    assert method == "beta, clustered by task"
    per_task, per_attempt = (beta_bounds(interval.mean, size) for size in (60, 480))
    assert per_task[0] < interval.low < per_attempt[0] < interval.mean < per_attempt[1] < interval.high < per_task[1]


def test_equal_outcomes_and_a_single_task_have_wide_intervals() -> None:
    certain, _ = success_rate({task: [True] * 4 for task in range(30)})
    assert (certain.low, certain.high) == (pytest.approx(0.025 ** (1 / 30)), 1.0)
    alone, _ = success_rate({"only": [True, False]})
    assert alone.high - alone.low > 0.9


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (10, 10), (1, 2), (37, 120), (511, 512)])
def test_bounds_of_binary_scores_are_those_of_clopper_and_pearson(wins: int, n: int) -> None:
    exact = stats.binomtest(wins, n).proportion_ci(0.95, method="exact")
    interval = unit_mean({task: [float(task < wins)] for task in range(n)})
    assert (interval.low, interval.high) == (pytest.approx(exact.low, abs=1e-6), pytest.approx(exact.high, abs=1e-6))


@pytest.mark.parametrize("scores", [[0.3, 0.7], [0.1] * 20 + [0.2, 0.9], [0.5] * 30, list(np.linspace(0.2, 1, 60))])
def test_bounds_of_scores_are_quantiles_of_randomly_weighted_means(scores: list[float]) -> None:
    # By random weights instead of an integral. The shares have a standard error of 0.0004.
    interval = unit_mean(dict(enumerate([score] for score in scores)))
    weights = np.random.default_rng(0).dirichlet(np.ones(len(scores) + 1), size=150_000)
    assert (weights @ [*scores, 1.0] > interval.high).mean() == pytest.approx(0.025, abs=0.002)
    assert (weights @ [*scores, 0.0] < interval.low).mean() == pytest.approx(0.025, abs=0.002)
    assert interval.mean == pytest.approx(np.mean(scores))


def test_the_score_of_a_task_is_the_mean_of_its_attempts() -> None:
    expected = unit_mean({"a": [0.5], "b": [1.0], "c": [0.0]})
    assert unit_mean({"a": [0.25, 0.75, 0.5], "b": [1.0], "c": [0.0, 0.0], "d": []}) == expected


@pytest.mark.parametrize(("values", "words"), [({"a": []}, "no attempts"), ({"a": [1.5]}, "outside")])
def test_unit_mean_refuses_values_without_a_mean_in_the_unit_interval(
    values: dict[str, list[float]], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        unit_mean(values)


def test_clustered_with_equal_attempts_is_the_interval_of_the_task_means() -> None:
    values = np.random.default_rng(0).normal(size=(12, 5)) + np.arange(12)[:, None]
    means = values.mean(axis=1)
    half = stats.t.ppf(0.975, 11) * means.std(ddof=1) / math.sqrt(12)
    interval = clustered({task: list(row) for task, row in enumerate(values)})
    assert interval.mean == pytest.approx(means.mean())
    assert (interval.low, interval.high) == (pytest.approx(means.mean() - half), pytest.approx(means.mean() + half))


def test_clustered_with_unequal_attempts_is_the_interval_of_the_task_means() -> None:
    expected = stats.ttest_1samp([2 / 3, 0.0, 1.0], 0.0).confidence_interval(0.95)
    interval = clustered({"a": [1.0, 0.0, 1.0], "b": [0.0], "c": [1.0, 1.0], "d": []})
    assert interval.mean == pytest.approx(5 / 9)
    assert (interval.low, interval.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_clustered_needs_an_attempt_and_two_tasks_for_bounds() -> None:
    assert clustered({"only": [1.0, 0.0]}).high == math.inf
    with pytest.raises(ValueError, match="no attempts"):
        clustered({"a": []})
