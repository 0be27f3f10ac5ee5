"""Sums over attempts: tokens and dollars. If one of the numbers is unknown, the sum is unknown."""

from __future__ import annotations

import math
from collections.abc import Iterable

from arlarena.rollout.evaluation.models.protocol import NO_TOKENS, TokenUsage
from arlarena.rollout.evaluation.records import AttemptRecord


def total_usage(records: Iterable[AttemptRecord]) -> TokenUsage:
    """Return the sums of tokens. A sum is None if the model does not report this number for an attempt."""
    return sum((record.usage for record in records if record.requests), start=NO_TOKENS)


def total_dollars(costs: Iterable[float | None]) -> float | None:
    """Return the sum of costs, or None if one is unknown. The sum of no costs is 0."""
    known = list(costs)
    return None if None in known else math.fsum(cost for cost in known if cost is not None)
