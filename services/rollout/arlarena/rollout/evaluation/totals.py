"""Sums of tokens and dollars over attempts. If one of the numbers is unknown, the sum is unknown (None)."""

from __future__ import annotations

import math
from collections.abc import Iterable

from arlarena.rollout.evaluation.models.protocol import NO_TOKENS, TokenUsage
from arlarena.rollout.evaluation.records import AttemptRecord


def total_usage(records: Iterable[AttemptRecord]) -> TokenUsage:
    """Return the sums of tokens over all attempts with requests.

    A sum is None if the vendor did not report the number for one of these attempts.
    """
    return sum((record.usage for record in records if record.requests), start=NO_TOKENS)


def total_dollars(costs: Iterable[float | None]) -> float | None:
    """Return the sum of `costs` in dollars, or None if a cost is unknown. Without any costs, the sum is 0."""
    known = list(costs)
    return None if None in known else math.fsum(cost for cost in known if cost is not None)
