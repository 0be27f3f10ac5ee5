"""Exponential back-off between attempts."""

from __future__ import annotations

from collections.abc import Iterator


def pauses(first_s: float, longest_s: float) -> Iterator[float]:
    """Yields an endless sequence of pauses, in seconds.

    The first pause is `first_s`. Each later pause is twice as long as the previous pause, but at most `longest_s`.
    """
    pause = first_s
    while True:
        yield min(pause, longest_s)
        pause = min(2 * pause, longest_s)
