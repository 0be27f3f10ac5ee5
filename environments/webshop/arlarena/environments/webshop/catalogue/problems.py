"""Problems in source files that do not stop a build. They are counted by kind, with the place of the first one."""

from __future__ import annotations

from arlarena.proto.text.wording import counted


class DataProblems:
    """Counts the problems of each kind."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, kind: str, where: str) -> None:
        """Count a problem. `where`: the file and the asin, and the invalid value if it helps to find the problem."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._first.setdefault(kind, where)

    def lines(self) -> list[str]:
        """Return one line for each kind: the count, and the place of the first problem."""
        return [
            f"{kind}: {counted(count, 'time')}, first in {self._first[kind]}" for kind, count in self._counts.items()
        ]
