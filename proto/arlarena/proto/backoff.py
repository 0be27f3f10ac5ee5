"""Exponential back-off between attempts."""

from __future__ import annotations

from collections.abc import Iterator


def pauses(first_s: float, longest_s: float) -> Iterator[float]:
    """Yields pauses in seconds, without end: `first_s`, 2 `first_s`, 4 `first_s` …, each at most `longest_s`."""
    pause = first_s
    while True:
        yield min(pause, longest_s)
        pause = min(2 * pause, longest_s)
