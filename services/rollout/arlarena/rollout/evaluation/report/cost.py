"""The cost of tokens in dollars. An unknown cost is None, never 0."""

from __future__ import annotations

from arlarena.rollout.evaluation.models.protocol import TokenUsage
from arlarena.rollout.evaluation.report.prices import ModelPrice

PER_TOKENS = 1_000_000


def dollars(usage: TokenUsage, price: ModelPrice | None, requests: int = 1) -> float | None:
    """Returns the cost of `usage` in dollars, or None if the cost is unknown.

    The cost is unknown in these cases:
    - The price is unknown.
    - The vendor did not report the numbers of input and output tokens.
    - Tokens were read from a cache, and the price of cached tokens is unknown.
    - The mean number of input tokens of a request is above `price.input_up_to`.

    If the vendor does not report the number of cached tokens, all input tokens have the price of input tokens. If the
    vendor does not report the number of reasoning tokens, all output tokens have the price of output tokens.

    Args:
        usage: tokens of one or several requests.
        price: prices per million tokens.
        requests: number of requests.
    """
    if price is None or usage.input is None or usage.output is None:
        return None
    if price.input_up_to is not None and usage.input > price.input_up_to * max(1, requests):
        return None
    cached, reasoning = min(usage.cached or 0, usage.input), min(usage.reasoning or 0, usage.output)
    if cached and price.cached_input is None:
        return None
    total = (
        (usage.input - cached) * price.input
        + cached * (price.cached_input or 0.0)
        + (usage.output - reasoning) * price.output
        + reasoning * price.reasoning
    )
    return total / PER_TOKENS


def money(cost: float | None) -> str:
    """Returns a cost as text, such as `$0.0042` or `$12.30`. Returns `unknown` for None."""
    if cost is None:
        return "unknown"
    return f"${cost:,.4f}" if 0 < cost < 1 else f"${cost:,.2f}"
