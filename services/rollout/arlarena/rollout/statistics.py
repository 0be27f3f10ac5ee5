"""Confidence intervals of success rates and means over episodes.

`wilson` is for independent attempts, one per task. Several attempts of one task are correlated, so `clustered` computes
the variance between tasks. (For 30 tasks with 16 attempts each, an interval for independent attempts was too narrow by
a factor of 2.9.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

LEVEL = 0.95  # default confidence level
# Gauss-Legendre points for Student's distribution function; the error is below 1e-9 up to 10,000 degrees of freedom.
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(256)
# Above this many degrees of freedom, the quantiles of Student's t and of the normal distribution agree to 4 digits.
_NORMAL_FROM = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its confidence interval [low, high]."""

    mean: float
    low: float
    high: float

    def rounded(self, digits: int = 4) -> list[float]:
        """Returns [low, high] for a table or a JSON file."""
        return [round(self.low, digits), round(self.high, digits)]


def wilson(successes: int, n: int, level: float = LEVEL) -> Interval:
    """Returns Wilson's score interval for a proportion (Wilson 1927).

    The interval lies in [0, 1]. Its width is positive even for 0 or n successes.

    Raises:
        ValueError: not 0 <= successes <= n, or n = 0.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"n = {n} must be at least 1, and successes = {successes} must be at least 0 and at most n")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At p = 0 and p = 1 one bound equals p. `min` and `max` remove the rounding error.
    return Interval(p, max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p)))


def clustered(values: Mapping[Any, Sequence[float]], level: float = LEVEL) -> Interval:
    """Returns the mean over all attempts and its interval, clustered by task (cluster-robust variance, Student's t).

    Var = C/(C-1) * sum_c (sum_i (x_ci - mean))^2 / N^2. Here x_ci is the value of attempt i of task c, C is the number
    of tasks and N the number of attempts. If all tasks have the same number of attempts, the interval equals the t
    interval of the task means. For a single task the interval is unbounded.

    Args:
        values: for each task, the values of its attempts. Tasks without attempts are ignored.
        level: the confidence level.

    Raises:
        ValueError: there are no attempts.
    """
    tasks = [np.asarray(attempts, dtype=np.float64) for attempts in values.values() if len(attempts)]
    if not tasks:
        raise ValueError("no attempts, so there is no mean")
    total = sum(len(attempts) for attempts in tasks)
    mean = float(sum(attempts.sum() for attempts in tasks) / total)
    count = len(tasks)
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    residuals = np.array([float((attempts - mean).sum()) for attempts in tasks])
    error = math.sqrt(count / (count - 1) * float((residuals**2).sum())) / total
    half = student_quantile(0.5 + level / 2, count - 1) * error
    return Interval(mean, mean - half, mean + half)


def success_rate(outcomes: Mapping[Any, Sequence[bool]]) -> tuple[Interval, str]:
    """Returns the success rate with its confidence interval, and the name of the method that computed the interval.

    "wilson": every task has one attempt. "clustered by task": tasks have several attempts. "wilson over tasks": all
    attempts are of one task, or all have the same outcome. The clustered interval would then be unbounded or have width
    0. Wilson's interval is computed instead, with one trial per task.
    """
    tried = {task: attempts for task, attempts in outcomes.items() if attempts}
    flat = [bool(value) for attempts in tried.values() for value in attempts]
    if all(len(attempts) == 1 for attempts in tried.values()):
        return wilson(sum(flat), len(flat)), "wilson"
    if len(tried) == 1 or all(flat) or not any(flat):
        n = len(tried)
        interval = wilson(round(n * sum(flat) / len(flat)), n)
        return Interval(sum(flat) / len(flat), interval.low, interval.high), "wilson over tasks"
    interval = clustered({task: [float(value) for value in attempts] for task, attempts in tried.items()})
    return Interval(interval.mean, max(0.0, interval.low), min(1.0, interval.high)), "clustered by task"


def student_quantile(probability: float, freedom: int) -> float:
    """Returns the quantile of Student's t at `probability` (0.5 to 1). `freedom`: degrees of freedom."""
    if not 0.5 <= probability < 1 or freedom < 1:
        raise ValueError(f"probability = {probability} must be in [0.5, 1), and freedom = {freedom} must be at least 1")
    if freedom >= _NORMAL_FROM:
        return NormalDist().inv_cdf(probability)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_below(middle, freedom) < probability else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _student_below(angle: float, freedom: int) -> float:
    """Returns P(T < sqrt(freedom) tan(angle)), where T has Student's t distribution with `freedom` degrees of freedom.

    As a function of the angle, the density of T is proportional to a power of the cosine.
    """
    x = angle / 2 * (_POINTS + 1)
    area = angle / 2 * float(np.sum(_WEIGHTS * np.cos(x) ** (freedom - 1)))
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return 0.5 + scale * area
