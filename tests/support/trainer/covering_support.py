"""Covering arrays: a small subset of a product of choices that has every combination of a few choices."""

import heapq
import itertools
import random
from collections.abc import Sequence
from typing import TypeVar

Row = TypeVar("Row", bound=tuple[object, ...])


def covering(rows: Sequence[Row], strength: int) -> list[Row]:
    """A subset of `rows` with every combination of `strength` values that occurs in `rows`.

    The caller leaves out rows that cannot be. Greedy, so not the fewest; the same rows always give the same.
    """
    parts = [_parts(row, strength) for row in rows]
    missing = set().union(*parts)
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    most_first = [(-len(parts[number]), place, number) for place, number in enumerate(order)]
    heapq.heapify(most_first)
    chosen = []
    while most_first and missing:
        guess, place, number = heapq.heappop(most_first)
        new = parts[number] & missing
        if len(new) == -guess:  # the number that a row adds can only have decreased
            missing -= new
            chosen.append(number)
        elif new:
            heapq.heappush(most_first, (-len(new), place, number))
    assert not missing
    return [rows[number] for number in sorted(chosen)]


def _parts(row: tuple[object, ...], strength: int) -> set[tuple[tuple[int, object], ...]]:
    return set(itertools.combinations(enumerate(row), strength))
