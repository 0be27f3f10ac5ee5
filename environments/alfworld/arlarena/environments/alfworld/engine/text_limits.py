"""Limits for the computation of texts. A grammar may be untrusted. Without limits, the computation of a text might
never end.

ALFWorld's longest text needs about a hundred queries and 1 ms. It has about a thousand characters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

from arlarena.environments.alfworld.errors import GameError

Pattern = tuple[int | None, ...]

# Limits of one text. MAX_QUERIES: queries and uses of rules. MAX_TEXT: characters.
MAX_QUERIES = 100_000
MAX_SECONDS = 2.0
MAX_TEXT = 1 << 16


class Facts(Protocol):
    """The state's interface for grammars. Entities are numbers in the order of their ids."""

    def rows(self, predicate: str, pattern: Pattern) -> Iterator[tuple[int, ...]]:
        """Return the facts that match a pattern, in order. None in the pattern matches every entity."""
        ...

    def holds(self, predicate: str, values: tuple[int, ...]) -> bool:
        """Return whether a fact holds."""
        ...

    def name(self, entity: int) -> str:
        """Return the entity's name."""
        ...


class LimitedFacts:
    """Facts with a limit on the number of queries and a limit on time. If a limit is exceeded, `count`, `rows` and
    `holds` raise GameError.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts, self._left, self._ends = facts, MAX_QUERIES, time.monotonic() + MAX_SECONDS

    def count(self) -> None:
        """Count one query or one use of a rule, and check the limits."""
        self._left -= 1
        if self._left < 0 or time.monotonic() > self._ends:
            raise GameError(f"grammar: a text needs more than {MAX_QUERIES} queries or {MAX_SECONDS:g} s")

    def rows(self, predicate: str, pattern: Pattern) -> Iterator[tuple[int, ...]]:
        """Yield the facts that match a pattern, in order, and count them. See `Facts.rows`."""
        self.count()
        for row in self._facts.rows(predicate, pattern):
            self.count()
            yield row

    def holds(self, predicate: str, values: tuple[int, ...]) -> bool:
        """Return whether a fact holds, and count the query."""
        self.count()
        return self._facts.holds(predicate, values)

    def name(self, entity: int) -> str:
        """Return the entity's name."""
        return self._facts.name(entity)


def bounded_text(text: str) -> str:
    """Check the length of a text and return the text.

    Raises:
        GameError: the text is too long.
    """
    if len(text) > MAX_TEXT:
        raise GameError(f"grammar: a text is longer than {MAX_TEXT} characters")
    return text
