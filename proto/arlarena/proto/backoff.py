"""Exponential back-off between attempts."""

from __future__ import annotations

from collections.abc import Iterator


def pauses(first_s: float, longest_s: float) -> Iterator[float]:
    """Yields the lengths of pauses in seconds, without end.

    The first pause is `first_s`. Each later pause is twice as long as the one before, but at most `longest_s`.
    """
    pause = first_s
    while True:
        yield min(pause, longest_s)
        pause = min(2 * pause, longest_s)
