"""Bounds of the mean of values in [0, 1], for any distribution of the values: Gaffke (2005).

The upper bound is a quantile of sum_j w_j x_j. Here x contains the sorted values and one more value, 1. The weights w
have the distribution Dirichlet(1, …, 1). The lower bound is 1 minus the upper bound of the values 1 - x.

If all values are 0 or 1, the bounds are those of Clopper and Pearson. For many values with a moderate spread, the
bounds are close to Student's t. It is not proven that the bounds have the nominal coverage for all distributions.
Learned-Miller and Thomas (arXiv 1905.06208) and Phan et al. (arXiv 2106.03163) found no counter-example.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# Points of the numerical integral. With them, the error of a tail probability is below 1e-6.
_POINTS = np.linspace(0.0, 6.0, 97)
# Steps of bisection for a bound and for the saddle point. The saddle point needs no precision, because the integral has
# the same value along every vertical line in the strip of convergence.
_BOUND_STEPS, _SADDLE_STEPS = 34, 25


def gaffke_bounds(values: ArrayLike, level: float) -> tuple[float, float]:
    """Return (lower, upper), the bounds of the mean. `values`: C >= 1 independent values in [0, 1], of shape [C]."""
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    tail = (1 - level) / 2
    return 1 - _upper(1 - distinct, counts, tail), _upper(distinct, counts, tail)


def upper_tail(values: ArrayLike, counts: ArrayLike, at: float) -> Floats:
    """Return the probability that sum_j w_j x_j exceeds `at` (see the docstring of the module).

    The upper bound is at least `at` if and only if this probability is at least (1 - level) / 2.

    Dirichlet weights are proportional to gamma variables G_j. The result is therefore the probability that the sum of
    G_j (x_j - at) is positive. This probability is an integral of the moment generating function along a vertical line
    through the saddle point (Lugannani and Rice 1980). On this line the integrand does not oscillate, so the
    trapezoidal rule converges fast.

    Args:
        values: distinct values in [0, 1], [V].
        counts: number of observations of each value, [..., V].
        at: a mean below 1.
    """
    shifted = np.append(np.asarray(values, dtype=np.float64), 1.0) - at
    number = np.asarray(counts, dtype=np.float64)
    weights = np.concatenate([number, np.ones((*number.shape[:-1], 1))], axis=-1)
    low, high = np.zeros(weights.shape[:-1]), np.full(weights.shape[:-1], 1 / shifted.max())
    # Find the saddle point of K(s) - log s. K is the logarithm of the moment generating function.
    for _ in range(_SADDLE_STEPS):
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
