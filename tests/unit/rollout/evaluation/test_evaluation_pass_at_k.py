"""pass@k against a count of all subsets, and against the rate that it estimates."""

from itertools import combinations, product
from math import prod

import pytest

from arlarena.rollout.evaluation.statistics.intervals import success_rate, unit_mean
from arlarena.rollout.evaluation.statistics.pass_at_k import ks, mean_pass_at_k, pass_at_k


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_success(n: int) -> None:
    for c in range(n + 1):
        outcomes = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = [any(chosen) for chosen in combinations(outcomes, k)]
            assert pass_at_k(n, c, k) == pytest.approx(sum(subsets) / len(subsets), abs=1e-12)


@pytest.mark.parametrize("rate", [0.02, 0.4, 0.95])
def test_pass_at_k_is_unbiased(rate: float) -> None:
    # The expectation over all outcomes of six attempts is the probability that one of three succeeds.
    expected = sum(
        prod(rate if won else 1 - rate for won in outcomes) * pass_at_k(6, sum(outcomes), 3)
        for outcomes in product((0, 1), repeat=6)
    )
    assert expected == pytest.approx(1 - (1 - rate) ** 3)


def test_pass_at_k_is_stable_for_many_attempts() -> None:
    assert pass_at_k(100_000, 1, 1000) == pytest.approx(0.01)
    assert pass_at_k(10_000, 0, 64) == 0.0
    assert pass_at_k(64, 1, 64) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_pass_at_k_refuses_impossible_numbers(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="k must be 1 to"):
        pass_at_k(n, c, k)


def test_the_mean_leaves_out_tasks_with_fewer_than_k_attempts() -> None:
    outcomes = {"a": [True, False, False, False], "b": [True, True], "c": [False] * 4, "d": []}
    interval, tasks = mean_pass_at_k(outcomes, 2)
    assert tasks == 3
    assert interval.mean == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert interval == unit_mean({"a": [1 / 2], "b": [1.0], "c": [0.0]})
    assert mean_pass_at_k(outcomes, 4)[1] == 2
    assert mean_pass_at_k(outcomes, 1) == (success_rate(outcomes)[0], 3)
    with pytest.raises(ValueError, match="no task has 5 attempts"):
        mean_pass_at_k(outcomes, 5)


def test_reported_ks_are_powers_of_two() -> None:
    assert [ks(n) for n in (1, 2, 3, 16, 64)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8, 16], [1, 2, 4, 8, 16, 32, 64]]
