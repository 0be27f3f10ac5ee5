"""A row of a data set of problems, whatever it is stored in."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from arlarena.environments.tir_math.episode.replies import boxed
from arlarena.environments.tir_math.errors import ProblemsError
from arlarena.environments.tir_math.problems.problem import Problem, text_key


class ProblemRow(msgspec.Struct, frozen=True):
    """What is read of it; other fields are ignored. Without an id it is called by its place."""

    problem: str
    answer: str | int | float
    id: str | int | None = None
    source: str | None = None
    level: str | int | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A row and where it is, as an error names it: "aime24.jsonl, line 7"."""

    row: ProblemRow
    place: str
    number: int


def problem_of(placed: Placed, source: str) -> Problem | None:
    """The problem of a row; None for one whose answer is empty, as two of MATH's are.

    Raises:
        ProblemsError: it has no question; the message names its place.
    """
    row = placed.row
    if not row.problem.strip():
        raise ProblemsError(f"{placed.place}: an empty problem")
    answer = gold_of(str(row.answer))
    if not answer:
        return None
    return Problem(
        str(placed.number if row.id is None else row.id),
        row.problem.strip(),
        answer,
        row.subject or "",
        _level(row.level),
        row.source or source,
        text_key(row.problem),
    )


def gold_of(text: str) -> str:
    r"""The answer in a text that may be a whole solution: behind #### (GSM8K), or in the last \boxed{…} (MATH)."""
    if "####" in text:
        return text.rpartition("####")[2].strip()
    return boxed(text) or text.strip() if "\\boxed" in text else text.strip()


def _level(level: str | int | None) -> int | None:
    """5, of 5 and of "Level 5"."""
    digits = str(level).split()[-1:] if level is not None else []
    return int(digits[0]) if digits and digits[0].isascii() and digits[0].isdigit() else None
