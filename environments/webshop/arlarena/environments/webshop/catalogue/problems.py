"""Counts the problems in source files by kind, and stores the place of the first problem of each kind. Only problems
that do not stop a build are counted.
"""

from __future__ import annotations

from arlarena.proto.text.wording import counted, printable

LONGEST_PLACE = 300  # characters; the texts of a file can be long


class DataProblems:
    """Counts the problems of each kind."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, kind: str, where: str) -> None:
        """Count a problem. `where`: the file and the asin, and the invalid value if it helps to find the problem."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if kind not in self._first:
            cut = where if len(where) <= LONGEST_PLACE else f"{where[:LONGEST_PLACE]}…"
            self._first[kind] = printable(cut)

    def lines(self) -> list[str]:
        """Return one line for each kind: the count, and the place of the first problem."""
        return [
            f"{kind}: {counted(count, 'time')}, first in {self._first[kind]}" for kind, count in self._counts.items()
        ]
