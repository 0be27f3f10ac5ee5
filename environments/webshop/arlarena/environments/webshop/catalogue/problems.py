"""Problems of source files that do not stop a build. Each kind is counted, and its first occurrence is described."""

from __future__ import annotations

from arlarena.proto.text.wording import counted


class DataProblems:
    """A count per kind of problem."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, kind: str, where: str) -> None:
        """Count a problem. `where`: file and asin, and the value if that helps."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._first.setdefault(kind, where)

    def lines(self) -> list[str]:
        """Return a line per kind."""
        return [
            f"{kind}: {counted(count, 'time')}, first in {self._first[kind]}" for kind, count in self._counts.items()
        ]
