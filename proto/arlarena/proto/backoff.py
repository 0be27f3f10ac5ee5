"""Exponential back-off between attempts."""

from __future__ import annotations

from collections.abc import Iterator


def pauses(first_s: float, longest_s: float) -> Iterator[float]:
    """Yields an endless sequence of pauses in seconds: `first_s`, doubled each time, up to `longest_s`."""
    pause = first_s
    while True:
        yield min(pause, longest_s)
        pause = min(2 * pause, longest_s)
