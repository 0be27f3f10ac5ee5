"""Paired comparisons against enumerations, scipy and a formula written out again."""

from itertools import product
from math import sqrt

import numpy as np
import pytest
from scipy import stats
from support.evaluation.record_support import attempt

from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.statistics.paired import compare, difference_interval, sign_flip_p


def enumerated(differences: list[float]) -> float:
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((-1, 1), repeat=len(differences))
    ]
    return sum(value >= abs(sum(differences)) - 1e-9 for value in sums) / len(sums)


@pytest.mark.parametrize("seed", range(5))
def test_sign_flip_test_equals_the_enumeration_of_all_signs(seed: int) -> None:
    random = np.random.default_rng(seed)
    quarters = list(random.integers(-2, 4, 9) / 4)
    assert sign_flip_p(quarters, 4) == (pytest.approx(enumerated(quarters)), True)
    scores = list(random.normal(0.2, 0.4, 9))
    assert sign_flip_p(scores) == (pytest.approx(enumerated(scores)), True)


def test_sign_flip_test_with_one_attempt_is_the_exact_mcnemar_test() -> None:
    differences = [1.0] * 21 + [-1.0] * 8 + [0.0] * 100
    p, exact = sign_flip_p(differences, 1)
    assert (p, exact) == (pytest.approx(stats.binomtest(8, 29).pvalue), True)


def test_random_sign_flips_are_close_to_the_exact_value_and_say_so() -> None:
    differences = [1.0] * 40 + [-1.0] * 22
    p, exact = sign_flip_p(differences)
    assert not exact
    assert p == pytest.approx(stats.binomtest(22, 62).pvalue, abs=0.003)
    assert sign_flip_p([0.0, 0.0]) == (1.0, True)


def test_the_interval_adds_a_task_for_each_sign() -> None:
    differences = [1.0, 0.0, -1.0, 0.25, 0.5, 0.0]
    padded = np.array([*differences, 1.0, -1.0])
    half = stats.t.ppf(0.975, 7) * sqrt(padded.var() / 8)
    interval = difference_interval(differences)
    assert interval.mean == pytest.approx(np.mean(differences))
    assert (interval.low, interval.high) == (pytest.approx(padded.mean() - half), pytest.approx(padded.mean() + half))
    equal = difference_interval([0.0] * 30)
    assert -0.15 < equal.low < 0 < equal.high < 0.15
    with pytest.raises(ValueError, match=r"in \[-1, 1\]"):
        difference_interval([1.5])


def test_two_evaluations_are_compared_task_by_task() -> None:
    first = [attempt(i, k, success=(i + k) % 3 == 0) for i in range(8) for k in range(2)]
    second = [attempt(i, k, success=(i + k) % 3 <= 1) for i in range(8) for k in range(4)]
    differences = [
        sum((i + k) % 3 <= 1 for k in range(4)) / 4 - sum((i + k) % 3 == 0 for k in range(2)) / 2 for i in range(8)
    ]
    result = compare(first, second)
    assert (result.tasks, result.left_out, result.exact) == (8, 0, True)
    assert result.difference == pytest.approx(np.mean(differences))
    assert result.second - result.first == pytest.approx(result.difference)
    assert (result.better, result.worse) == (sum(d > 0 for d in differences), sum(d < 0 for d in differences))
    assert result.p_value == pytest.approx(enumerated(differences))
    expected = difference_interval(differences)
    assert result.ci95 == (expected.low, expected.high)
    scores = compare(first, second, lambda record: 0.3 * record.success)
    assert scores.difference == pytest.approx(0.3 * result.difference)


def test_an_attempt_that_is_not_scored_leaves_its_task_out() -> None:
    first = [attempt(i, success=True) for i in range(4)]
    second = [attempt(i, success=True) for i in range(3)] + [attempt(3, status="infra_error", content_key="")]
    result = compare(first, second)
    assert (result.tasks, result.left_out, result.difference, result.p_value) == (3, 1, 0.0, 1.0)
    # A later record of the same attempt replaces the earlier one.
    assert compare(first, [*second, attempt(3)]).worse == 1
    with pytest.raises(EvaluationError, match="no task has a scored attempt in both"):
        compare(first[3:], second[3:])


def test_evaluations_of_different_tasks_are_refused_by_name() -> None:
    first = [attempt(i) for i in range(6)]
    with pytest.raises(EvaluationError, match=r"only the first has corridor/test/4, corridor/test/5; .*--set"):
        compare(first, first[:4])
    with pytest.raises(EvaluationError, match=r"only the second has corridor/test/1, .*/3 and 2 more tasks"):
        compare(first[:1], first)
    other = [attempt(i, content_key="other" if i == 2 else f"room{i}") for i in range(6)]
    with pytest.raises(EvaluationError, match=r"corridor/test/2 differ \(corridor/test/2: content room2 and other\)"):
        compare(first, other)
