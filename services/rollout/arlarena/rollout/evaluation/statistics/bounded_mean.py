"""Bounds of the mean of values in [0, 1] for any distribution of the values: Gaffke (2005).

The upper bound is a quantile of sum_j w_j x_j, where x are the sorted values together with a further value 1, and the
weights w have the uniform distribution of Dirichlet(1, …, 1). The lower bound is 1 minus the upper bound of 1 - x. For
values 0 and 1, the bounds are those of Clopper and Pearson. For many values with a moderate spread, they are close to
Student's t. That they contain the mean often enough for all distributions is not proven; Learned-Miller and Thomas,
arXiv 1905.06208, and Phan et al., arXiv 2106.03163, found no counter-example.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# Points of the integral. The error of a tail is below 1e-6.
_POINTS = np.linspace(0.0, 6.0, 97)
# Steps of bisection: for a bound; and for the saddle point, which needs no precision, because the integral is the same
# along any line in the strip.
_BOUND_STEPS, _SADDLE_STEPS = 34, 25


def gaffke_bounds(values: ArrayLike, level: float) -> tuple[float, float]:
    """Return the lower and the upper bound of the mean. `values`: at least one independent value in [0, 1], [C]."""
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    tail = (1 - level) / 2
    return 1 - _upper(1 - distinct, counts, tail), _upper(distinct, counts, tail)


def upper_tail(values: ArrayLike, counts: ArrayLike, at: float) -> Floats:
    """Return the probability that the random mean for the upper bound exceeds `at`. The upper bound is at least `at` if
    and only if the probability is at least (1 - level) / 2.

    The weights are proportional to exponential variables. So it is the probability that a sum of gamma variables
    G_j (x_j - at) is positive, an integral of the moment generating function along a vertical line through the saddle
    point (Lugannani and Rice 1980). There the integrand does not oscillate, and the trapezoidal rule converges fast.

    Args:
        values: distinct values in [0, 1], [V].
        counts: number of observations of each value, [..., V].
        at: a mean below 1.
    """
    shifted = np.append(np.asarray(values, dtype=np.float64), 1.0) - at
    number = np.asarray(counts, dtype=np.float64)
    weights = np.concatenate([number, np.ones((*number.shape[:-1], 1))], axis=-1)
    low, high = np.zeros(weights.shape[:-1]), np.full(weights.shape[:-1], 1 / shifted.max())
    for _ in range(
        _SADDLE_STEPS
    ):  # the saddle point of K(s) - log s, where K is the logarithm of the generating function
        point = (low + high) / 2
        slope = (weights * shifted / (1 - shifted * point[..., None])).sum(-1) - 1 / point
        low, high = np.where(slope < 0, point, low), np.where(slope < 0, high, point)
    curvature = (weights * (shifted / (1 - shifted * point[..., None])) ** 2).sum(-1) + point**-2.0
    scale = 1 / np.sqrt(curvature)[..., None]
    line = point[..., None] + 1j * scale * np.sinh(_POINTS)
    logarithm = -np.log(line)
    for j, value in enumerate(shifted):
        logarithm = logarithm - weights[..., j, None] * np.log(1 - value * line)
    step = scale * np.cosh(_POINTS) * (_POINTS[1] - _POINTS[0])
    step[..., 0] /= 2
    return np.asarray((np.exp(logarithm).real * step).sum(-1) / np.pi, dtype=np.float64)


def _upper(values: Floats, counts: NDArray[np.intp], tail: float) -> float:
    if values.min() >= 1:
        return 1.0
    low, high = float((values * counts).sum() / counts.sum()), 1.0
    for _ in range(_BOUND_STEPS):
        middle = (low + high) / 2
        if middle >= 1:
            break
        low, high = (middle, high) if float(upper_tail(values, counts, middle)) >= tail else (low, middle)
    return (low + high) / 2
