"""Bounds for the texts of a game: a file that somebody made may ask for texts without end.

ALFWorld's longest text asks some hundred questions, takes less than 1 ms, and has some thousand characters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

from arlarena.environments.alfworld.errors import GameError

Pattern = tuple[int | None, ...]

MOST_QUESTIONS = 100_000
LONGEST_S = 2.0
LONGEST_TEXT = 1 << 16


class Facts(Protocol):
    """What a grammar asks of a state. Entities are numbers in the order of their ids."""

    def rows(self, predicate: str, pattern: Pattern) -> Iterator[tuple[int, ...]]:
        """The facts that fit a pattern, in order; None fits anything."""
        ...

    def holds(self, predicate: str, values: tuple[int, ...]) -> bool:
        """Whether a fact is so."""
        ...

    def name(self, entity: int) -> str:
        """What it is called."""
        ...


class Limited:
    """Facts that can be asked only so much and so long.

    Raises:
        GameError: by every method, once a limit is passed.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts, self._left, self._ends = facts, MOST_QUESTIONS, time.monotonic() + LONGEST_S

    def count(self) -> None:
        """Count one question, or one rule."""
        self._left -= 1
        if self._left < 0 or time.monotonic() > self._ends:
            raise GameError(f"grammar: a text asks more than {MOST_QUESTIONS} questions, or for {LONGEST_S:g} s")

    def rows(self, predicate: str, pattern: Pattern) -> Iterator[tuple[int, ...]]:
        """See `Facts`."""
        self.count()
        for row in self._facts.rows(predicate, pattern):
            self.count()
            yield row

    def holds(self, predicate: str, values: tuple[int, ...]) -> bool:
        """See `Facts`."""
        self.count()
        return self._facts.holds(predicate, values)

    def name(self, entity: int) -> str:
        """See `Facts`."""
        return self._facts.name(entity)


def bounded_text(text: str) -> str:
    """The text.

    Raises:
        GameError: it is too long.
    """
    if len(text) > LONGEST_TEXT:
        raise GameError(f"grammar: a text is longer than {LONGEST_TEXT} characters")
    return text
