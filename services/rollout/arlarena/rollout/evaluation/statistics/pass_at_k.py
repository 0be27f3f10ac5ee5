"""pass@k of tasks with several attempts. avg@k is `intervals.success_rate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arlarena.rollout.evaluation.statistics.intervals import Interval, success_rate, unit_mean


def pass_at_k(attempts: int, successes: int, k: int) -> float:
    """Return the unbiased estimate of the probability that at least one of `k` attempts of a task succeeds.

    For n attempts with c successes, the estimate is 1 - C(n - c, k) / C(n, k): Chen et al., arXiv 2107.03374, equation
    1. To avoid large numbers, this function computes, as their code, 1 - product of (1 - k / i), i = n - c + 1 to n.

    Raises:
        ValueError: `successes` is outside [0, attempts], or `k` is outside [1, attempts].
    """
    if not 0 <= successes <= attempts or not 1 <= k <= attempts:
        raise ValueError(f"pass@{k} of {successes} successes in {attempts} attempts: k must be 1 to {attempts}")
    if attempts - successes < k:
        return 1.0
    none = 1.0
    for i in range(attempts - successes + 1, attempts + 1):
        none *= 1 - k / i
    return 1 - none


def ks(attempts: int) -> list[int]:
    """Return the values of k to report: the powers of 2 up to `attempts`, and `attempts`."""
    return sorted({1 << power for power in range(attempts.bit_length())} | {attempts})


def mean_pass_at_k(outcomes: Mapping[Any, Sequence[bool]], k: int) -> tuple[Interval, int]:
    """Return (interval, tasks): the mean of pass@k over tasks with its interval, and the number of these tasks.

    Tasks with fewer than `k` attempts are left out, because they have no unbiased estimate of pass@k. pass@1 is the
    success rate.

    Raises:
        ValueError: no task has `k` attempts.
    """
    estimates = {
        task: [pass_at_k(len(tried), sum(tried), k)] for task, tried in outcomes.items() if len(tried) >= max(k, 1)
    }
    if not estimates:
        raise ValueError(f"pass@{k}: no task has {k} attempts")
    interval = success_rate(outcomes)[0] if k == 1 else unit_mean(estimates)
    return interval, len(estimates)
