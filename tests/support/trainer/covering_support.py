"""Covering arrays: a small subset of all combinations of choices that contains each combination of a few choices."""

import heapq
import itertools
import random
from collections.abc import Sequence
from typing import TypeVar

Row = TypeVar("Row", bound=tuple[object, ...])


def covering(rows: Sequence[Row], strength: int) -> list[Row]:
    """Return a subset of `rows` that contains every combination of `strength` values in `rows`.

    `rows` must not contain invalid rows. The algorithm is greedy, so a smaller subset can exist. Equal arguments give
    equal results.
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
        if len(new) == -guess:  # otherwise the number of new combinations has decreased, so the row goes back
            missing -= new
            chosen.append(number)
        elif new:
            heapq.heappush(most_first, (-len(new), place, number))
    assert not missing
    return [rows[number] for number in sorted(chosen)]


def _parts(row: tuple[object, ...], strength: int) -> set[tuple[tuple[int, object], ...]]:
    return set(itertools.combinations(enumerate(row), strength))
