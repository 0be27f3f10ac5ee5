"""Compares two evaluations of the same tasks: the difference of means, its interval, and a sign-flip test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.records import AttemptRecord
from arlarena.rollout.evaluation.statistics.bounded_mean import Floats
from arlarena.rollout.evaluation.statistics.intervals import LEVEL, Interval, student_quantile
from arlarena.rollout.evaluation.statistics.tasks import TaskKey, by_task, results, task_key

# The exact distribution of the sum of flipped differences is computed up to this many values. 512 tasks with 64
# attempts in both evaluations need 32,768 values. The time is proportional to tasks * values.
_MOST_VALUES = 200_000
# If the differences have no common unit, all sign vectors are enumerated up to this many tasks (2^18 vectors: 0.1 s).
_ENUMERATED_TASKS = 18
# Number of random sign vectors if neither exact method is possible.
_RANDOM_FLIPS = 100_000


class PairedComparison(msgspec.Struct, frozen=True):
    """The difference between two evaluations of the same tasks: second minus first.

    Attributes:
        tasks: number of compared tasks.
        left_out: number of tasks that lack a scored attempt in at least one of the evaluations.
        first: result of the first evaluation: the mean over each task's attempts, then over the compared tasks.
        second: result of the second evaluation, computed in the same way.
        difference: `second` minus `first`.
        ci95: 95 % interval of the difference.
        better: number of tasks with a higher mean in the second evaluation.
        worse: number of tasks with a lower mean in the second evaluation.
        p_value: two-sided p-value. The null hypothesis: both evaluations are the same on each task.
        exact: True if the p-value is exact, False if it comes from random sign flips.
    """

    tasks: int
    left_out: int
    first: float
    second: float
    difference: float
    ci95: tuple[float, float]
    better: int
    worse: int
    p_value: float
    exact: bool


def difference_interval(differences: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the mean of the tasks' differences, each in [-1, 1], and its confidence interval.

    For the bounds, two tasks with the differences 1 and -1 are added. Bonett and Price (2012) do the same for paired
    proportions. Here Student's t replaces the normal quantile. With the two added tasks, the interval has a positive
    width even if all differences are equal. It also contains the true mean often enough if most differences are 0.

    Raises:
        ValueError: there are no differences, or a difference is outside [-1, 1].
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values) or np.abs(values).max() > 1 + 1e-9:
        raise ValueError("differences must be in [-1, 1], and at least one is needed")
    centre, half = difference_bounds(values, level)
    mean = float(values.mean())
    return Interval(mean, min(max(-1.0, float(centre - half)), mean), max(min(1.0, float(centre + half)), mean))


def difference_bounds(differences: Floats, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Return (centre, half width) of the interval of `difference_interval`, before its ends are limited to [-1, 1].

    `differences`: [..., C]. The function computes one interval for each row of C differences.
    """
    number = differences.shape[-1] + 2
    centre = differences.sum(-1) / number
    variance = ((differences**2).sum(-1) + 2) / number - centre**2
    half = student_quantile(0.5 + level / 2, number - 1) * np.sqrt(variance / number)
    return centre, half


def sign_flip_p(differences: Sequence[float], unit: int | None = None) -> tuple[float, bool]:
    """Return (p, exact): the two-sided p-value of the sign-flip test, and True if it is exact.

    If both evaluations are the same on each task, both signs of each difference are equally probable. The p-value is
    the probability that random signs give an absolute sum of at least the observed absolute sum. If each task has one
    attempt in each evaluation, this is the exact test of McNemar (1947).

    Args:
        differences: one difference per task.
        unit: all differences are multiples of 1 / unit. None: there is no common unit.
    """
    values = np.array([value for value in differences if value != 0], dtype=np.float64)
    if not len(values):
        return 1.0, True
    if unit is not None:
        steps = np.abs(np.rint(values * unit)).astype(np.int64)
        if steps.sum() <= _MOST_VALUES:
            return _convolved(steps, abs(int(np.rint(values * unit).sum()))), True
    observed = abs(values.sum()) - 1e-9
    if len(values) <= _ENUMERATED_TASKS:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums - value, sums + value])
        return float((np.abs(sums) >= observed).mean()), True
    random = np.random.default_rng(0)
    hits, done = 0, 0
    while done < _RANDOM_FLIPS:
        part = min(2_000, _RANDOM_FLIPS - done)
        sums = (random.integers(0, 2, (part, len(values))) * 2 - 1) @ values
        hits, done = hits + int((np.abs(sums) >= observed).sum()), done + part
    # The observed signs count as one more flip. Otherwise the test could exceed its level (Phipson and Smyth 2010).
    return (hits + 1) / (_RANDOM_FLIPS + 1), False


def _convolved(steps: np.ndarray[Any, np.dtype[np.int64]], observed: int) -> float:
    """Return P(|sum of ± steps| >= observed) from the exact distribution of the sum, by convolution."""
    total = int(steps.sum())
    mass = np.zeros(2 * total + 1)
    mass[total] = 1.0
    for step in steps:
        mass = (np.roll(mass, step) + np.roll(mass, -step)) / 2
    return min(1.0, float(mass[np.abs(np.arange(-total, total + 1)) >= observed].sum()))


def compare(
    first: Sequence[AttemptRecord],
    second: Sequence[AttemptRecord],
    value: Callable[[AttemptRecord], float] = lambda record: float(record.success),
) -> PairedComparison:
    """Compare two evaluations of the same tasks. All tasks have the same weight, whatever their number of attempts.

    `value`: returns the compared value of an attempt, in [0, 1]. Default: 1 for success, else 0.

    Raises:
        EvaluationError: the evaluations have different tasks, tasks with different content, or no task with a scored
            attempt in both.
    """
    one, two = results(first), results(second)
    check_same_tasks(one, two)
    old, new = by_task(one, value), by_task(two, value)
    tasks = sorted(old.keys() & new.keys())
    if not tasks:
        raise EvaluationError("no task has a scored attempt in both evaluations; resume the evaluations")
    befores, afters = ([math.fsum(values[task]) / len(values[task]) for task in tasks] for values in (old, new))
    differences = [after - before for before, after in zip(befores, afters, strict=True)]
    binary = all(entry in (0, 1) for values in (old, new) for task in tasks for entry in values[task])
    unit = math.lcm(*(len(values[task]) for values in (old, new) for task in tasks)) if binary else None
    # Because of rounding, the difference of two equal means can be 1e-17 instead of 0.
    differences = [0.0 if abs(difference) < 1e-12 else difference for difference in differences]
    interval = difference_interval(differences)
    p_value, exact = sign_flip_p(differences, unit)
    return PairedComparison(
        tasks=len(tasks),
        left_out=len({task_key(record.key) for record in one}) - len(tasks),
        first=math.fsum(befores) / len(tasks),
        second=math.fsum(afters) / len(tasks),
        difference=interval.mean,
        ci95=(interval.low, interval.high),
        better=sum(difference > 0 for difference in differences),
        worse=sum(difference < 0 for difference in differences),
        p_value=p_value,
        exact=exact,
    )


def check_same_tasks(first: Sequence[AttemptRecord], second: Sequence[AttemptRecord]) -> None:
    """Check that two evaluations have the same tasks with the same content.

    Raises:
        EvaluationError: the tasks differ. The message names the first differences.
    """
    one, two = _contents(first), _contents(second)
    parts = [
        f"only the {name} has {_listed(mine.keys() - other.keys())}"
        for name, mine, other in (("first", one, two), ("second", two, one))
        if mine.keys() - other.keys()
    ]
    changed = {task for task in one.keys() & two.keys() if one[task] and two[task] and one[task] != two[task]}
    if changed:
        task = min(changed)
        keys = f"content {', '.join(sorted(one[task]))} and {', '.join(sorted(two[task]))}"
        parts.append(f"{_listed(changed)} differ ({'/'.join(map(str, task))}: {keys})")
    if parts:
        fix = "compare evaluations of the same tasks, for example with --set"
        raise EvaluationError(f"the two evaluations have different tasks: {'; '.join(parts)}; {fix}")


def _contents(records: Sequence[AttemptRecord]) -> Mapping[TaskKey, frozenset[str]]:
    """Return the content keys of each task. An attempt that failed before the reset has no content key."""
    contents: dict[TaskKey, frozenset[str]] = {}
    for record in records:
        key = task_key(record.key)
        contents[key] = contents.get(key, frozenset()) | ({record.content_key} if record.content_key else set())
    return contents


def _listed(tasks: set[TaskKey]) -> str:
    names = ["/".join(map(str, task)) for task in sorted(tasks)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tasks" if len(names) > 3 else "")
