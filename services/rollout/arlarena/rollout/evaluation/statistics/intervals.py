"""Means over tasks and their confidence intervals: success rates, scores and other figures of attempts.

All figures have the same estimator: the mean over tasks of the mean of each task's attempts. It estimates the mean of
the tasks' expected values, also if tasks have different numbers of attempts, as in an unfinished evaluation. If all
tasks have the same number of attempts, it equals the mean over attempts.

Attempts of one task are correlated, so all intervals are clustered by task: they use the variance between the tasks'
means. (For 30 tasks with 16 attempts each, an interval for independent attempts was too narrow by a factor of 2.9.)

    success_rate   values 0 and 1: the beta interval on the effective sample size
    unit_mean      other values in [0, 1], such as scores: the bounds of Gaffke over the tasks' means
    clustered      other values, such as returns: Student's t over the tasks' means

Near 0 and 1, the t interval contains the true mean much too rarely: benchmarks/results/interval_coverage.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from arlarena.rollout.evaluation.statistics.bounded_mean import Floats, gaffke_bounds

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its confidence interval [low, high] at `LEVEL`."""

    mean: float
    low: float
    high: float

    def rounded(self, digits: int = 4) -> list[float]:
        """Return [low, high] for a table or a JSON file."""
        return [round(self.low, digits), round(self.high, digits)]


def student_quantile(probability: float, freedom: ArrayLike) -> Floats:
    """Return quantiles of Student's t. `freedom`: degrees of freedom, not necessarily whole numbers."""
    # scipy.special is imported here, because it takes 0.35 s. scipy.stats would take 0.9 s.
    from scipy import special

    return np.asarray(special.stdtrit(freedom, probability), dtype=np.float64)


def beta_bounds(mean: ArrayLike, size: ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Return the bounds of Clopper and Pearson (1934) for `size` attempts of which the share `mean` succeeded.

    Neither `size` nor the number of successes has to be a whole number.
    """
    from scipy import special

    tail = (1 - level) / 2
    shares, sizes = np.broadcast_arrays(np.asarray(mean, dtype=np.float64), np.asarray(size, dtype=np.float64))
    wins, losses = shares * sizes, (1 - shares) * sizes
    low = np.where(wins > 0, special.betaincinv(np.maximum(wins, 1e-12), losses + 1, tail), 0.0)
    high = np.where(losses > 0, special.betaincinv(wins + 1, np.maximum(losses, 1e-12), 1 - tail), 1.0)
    return np.minimum(low, shares), np.maximum(high, shares)


def effective_size(means: ArrayLike, counts: ArrayLike, level: float = LEVEL) -> Floats:
    """Return the effective sample size of success rates: the number of independent attempts with the same precision.

    It is m (1 - m) / V, where m is the mean of the C tasks' means m_c, and V = sum_c (m_c - m)^2 / (C (C - 1)) is its
    variance. As in Korn and Graubard (1998), it is multiplied by (normal quantile / t quantile)^2, because V is an
    estimate. The degrees of freedom of V are those of Satterthwaite (1946), 2 C / (kurtosis - 1) with at most C - 1,
    where the kurtosis is that of m_c - m: if few tasks differ from the rest, V is uncertain. The result is at least
    C, the value if all attempts of a task have the same result, and at most C^2 / sum_c (1 / k_c), the value if the
    attempts of a task are independent. The latter is the number of attempts if all tasks have equally many.

    Args:
        means: success rate m_c of each task, [..., C].
        counts: number of attempts k_c >= 1 of each task, [C] or [..., C].
        level: the confidence level.

    Returns:
        The effective sample sizes, [...].
    """
    from scipy import special

    rates = np.asarray(means, dtype=np.float64)
    attempts = np.broadcast_to(np.asarray(counts, dtype=np.float64), rates.shape)
    tasks = rates.shape[-1]
    most = tasks**2 / (1 / attempts).sum(-1)
    if tasks == 1:
        return np.ones(rates.shape[:-1])
    mean = rates.mean(-1)
    squares = (rates - mean[..., None]) ** 2
    spread = squares.sum(-1)
    # Below this, the differences are rounding errors.
    known = spread > 1e-18 * tasks
    with np.errstate(divide="ignore", invalid="ignore"):
        size = mean * (1 - mean) * tasks * (tasks - 1) / spread
        kurtosis = np.where(known, tasks * (squares**2).sum(-1) / spread**2, np.inf)
        freedom = np.clip(2 * tasks / np.maximum(kurtosis - 1, 1e-9), 1, tasks - 1)
    size = size * (special.ndtri(0.5 + level / 2) / student_quantile(0.5 + level / 2, freedom)) ** 2
    size = np.where(known, np.maximum(size, tasks), tasks)
    return np.asarray(np.minimum(size, most), dtype=np.float64)


def success_rate(outcomes: Mapping[Any, Sequence[bool]]) -> tuple[Interval, str]:
    """Return the mean over tasks of the success rate of each task's attempts, and the name of the interval's method.

    Args:
        outcomes: for each task, whether its attempts succeeded. Tasks without attempts are ignored.

    Raises:
        ValueError: there are no attempts.
    """
    means, counts = task_means(outcomes)
    mean = float(means.mean())
    low, high = beta_bounds(mean, effective_size(means, counts))
    method = "Clopper-Pearson" if counts.max() == 1 else "beta, clustered by task"
    return Interval(mean, float(low), float(high)), method


def unit_mean(values: Mapping[Any, Sequence[float]]) -> Interval:
    """Return the mean over tasks of the means of their attempts, for values in [0, 1], with the bounds of Gaffke.

    The beta interval would contain the true mean too rarely near 0 and 1, because the effective sample size of values
    with a small variance is too uncertain (0.66 instead of 0.95 for 30 skewed scores).

    Args:
        values: for each task, the values of its attempts. Tasks without attempts are ignored.

    Raises:
        ValueError: there are no attempts, or a value is outside [0, 1].
    """
    means, _ = task_means(values)
    if any(not 0 <= value <= 1 for attempts in values.values() for value in attempts):
        raise ValueError("a value is outside [0, 1]; use `clustered` for other values")
    means = np.minimum(means, 1.0)
    mean = float(means.mean())
    low, high = gaffke_bounds(means, LEVEL)
    return Interval(mean, max(0.0, min(low, mean)), min(1.0, max(high, mean)))


def clustered(values: Mapping[Any, Sequence[float]], level: float = LEVEL) -> Interval:
    """Return the mean over tasks of the means of their attempts, with the t interval of the tasks' means.

    For a single task the interval is unbounded.

    Args:
        values: for each task, the values of its attempts. Tasks without attempts are ignored.
        level: the confidence level.

    Raises:
        ValueError: there are no attempts.
    """
    means, _ = task_means(values)
    mean, tasks = float(means.mean()), len(means)
    if tasks == 1:
        return Interval(mean, -math.inf, math.inf)
    half = float(student_quantile(0.5 + level / 2, tasks - 1)) * float(means.std(ddof=1)) / math.sqrt(tasks)
    return Interval(mean, mean - half, mean + half)


def task_means(values: Mapping[Any, Sequence[float]]) -> tuple[Floats, Floats]:
    """Return the mean and the number of the values of each task that has values, two arrays [C].

    Raises:
        ValueError: there are no values.
    """
    tried = [attempts for attempts in values.values() if len(attempts)]
    if not tried:
        raise ValueError("no attempts, so there is no mean")
    counts = np.array([float(len(attempts)) for attempts in tried])
    return np.array([math.fsum(attempts) for attempts in tried]) / counts, counts
