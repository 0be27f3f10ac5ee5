"""Means over tasks and their confidence intervals: success rates, scores and other figures of attempts.

All figures use the same estimator: the mean over each task's attempts, then the mean over tasks. It estimates the mean
of the tasks' expected values. Tasks may have different numbers of attempts, for example in an unfinished evaluation. If
all tasks have the same number of attempts, the estimate equals the mean over attempts.

Attempts of one task are correlated. All intervals are therefore clustered by task: they use the variance between the
tasks' means. For 30 tasks with 16 attempts each, an interval for independent attempts was too narrow by a factor of
2.9.

    success_rate   values 0 and 1: the beta interval for the effective sample size
    unit_mean      other values in [0, 1], such as scores: the bounds of Gaffke over the tasks' means
    clustered      other values, such as returns: Student's t over the tasks' means

The t interval is not used for values in [0, 1], because near 0 and 1 it contains the true mean much too rarely: see
benchmarks/results/interval_coverage.json.
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
        """Return [low, high], rounded to `digits` decimal places."""
        return [round(self.low, digits), round(self.high, digits)]


def preload() -> None:
    """Import SciPy now. Otherwise, the first interval imports it and blocks the event loop for up to 0.5 s."""
    from scipy import special  # noqa: F401


def student_quantile(probability: float, freedom: ArrayLike) -> Floats:
    """Return quantiles of Student's t. `freedom`: the degrees of freedom; fractional values are allowed."""
    # Imported here, because the import of scipy.special takes 0.35 s. scipy.stats would take 0.9 s.
    from scipy import special

    return np.asarray(special.stdtrit(freedom, probability), dtype=np.float64)


def beta_bounds(mean: ArrayLike, size: ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Return the bounds of Clopper and Pearson (1934) for `size` attempts with the success rate `mean`.

    `size` and the number of successes may be fractional.
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

    The size is m (1 - m) / V. Here m is the mean of the C tasks' means m_c, and V = sum_c (m_c - m)^2 / (C (C - 1)) is
    the variance of m. V is an estimate. The size is therefore multiplied by (normal quantile / t quantile)^2, as in
    Korn and Graubard (1998). The degrees of freedom of V are those of Satterthwaite (1946): 2 C / (kurtosis - 1), at
    most C - 1, with the kurtosis of m_c - m. If few tasks differ from the other tasks, the kurtosis is high and V is
    uncertain.

    The result is limited to [C, C^2 / sum_c (1 / k_c)]. It would be C if all attempts of each task had the same result.
    It would be the upper limit if the attempts of each task were independent. If all tasks have the same number of
    attempts, the upper limit is the total number of attempts.

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
    # A smaller spread consists of rounding errors.
    known = spread > 1e-18 * tasks
    with np.errstate(divide="ignore", invalid="ignore"):
        size = mean * (1 - mean) * tasks * (tasks - 1) / spread
        kurtosis = np.where(known, tasks * (squares**2).sum(-1) / spread**2, np.inf)
        freedom = np.clip(2 * tasks / np.maximum(kurtosis - 1, 1e-9), 1, tasks - 1)
    size = size * (special.ndtri(0.5 + level / 2) / student_quantile(0.5 + level / 2, freedom)) ** 2
    size = np.where(known, np.maximum(size, tasks), tasks)
    return np.asarray(np.minimum(size, most), dtype=np.float64)


def success_rate(outcomes: Mapping[Any, Sequence[bool]]) -> tuple[Interval, str]:
    """Return (interval, method): the success rate with its interval, and the name of the interval's method.

    The success rate is the mean over tasks of each task's success rate.

    Args:
        outcomes: for each task, the outcomes of its attempts (True: success). Tasks without attempts are ignored.

    Raises:
        ValueError: there are no attempts.
    """
    means, counts = task_means(outcomes)
    mean = float(means.mean())
    low, high = beta_bounds(mean, effective_size(means, counts))
    method = "Clopper-Pearson" if counts.max() == 1 else "beta, clustered by task"
    return Interval(mean, float(low), float(high)), method


def unit_mean(values: Mapping[Any, Sequence[float]]) -> Interval:
    """Return the mean over tasks of each task's mean, with the bounds of Gaffke. All values are in [0, 1].

    The beta interval does not suit such values: if their variance is small, the effective sample size is too uncertain.
    Near 0 and 1, the beta interval contains the true mean too rarely (0.66 instead of 0.95 for 30 skewed scores).

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
    """Return the mean over tasks of each task's mean, with the t interval of the tasks' means.

    For a single task, the interval is unbounded.

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
    """Return, for each of the C tasks, the mean of its values and the number of its values, as two arrays of shape [C].

    Tasks without values are left out.

    Raises:
        ValueError: there are no values.
    """
    tried = [attempts for attempts in values.values() if len(attempts)]
    if not tried:
        raise ValueError("no attempts, so there is no mean")
    counts = np.array([float(len(attempts)) for attempts in tried])
    return np.array([math.fsum(attempts) for attempts in tried]) / counts, counts
