"""Rows of problems, from files or from data sets."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from arlarena.environments.tir_math.episode.replies import boxed
from arlarena.environments.tir_math.errors import ProblemsError
from arlarena.environments.tir_math.problems.problem import Problem, text_key


class ProblemRow(msgspec.Struct, frozen=True):
    """The fields of a row that are read; other fields are ignored. Without `id`, the number of the row is the id."""

    problem: str
    answer: str | int | float
    id: str | int | None = None
    source: str | None = None
    level: str | int | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class LocatedRow:
    """A row, its place as text for error messages (such as "aime24.jsonl, line 7"), and its number."""

    row: ProblemRow
    place: str
    number: int


def problem_of(located: LocatedRow, source: str) -> Problem | None:
    """Return the problem of a row. Return None if the answer is empty (as in two rows of MATH).

    Raises:
        ProblemsError: the question is empty. The message names the row.
    """
    row = located.row
    if not row.problem.strip():
        raise ProblemsError(f"{located.place}: the problem is empty")
    answer = gold_of(str(row.answer))
    if not answer:
        return None
    return Problem(
        str(located.number if row.id is None else row.id),
        row.problem.strip(),
        answer,
        row.subject or "",
        _level(row.level),
        row.source or source,
        text_key(row.problem),
    )


def gold_of(text: str) -> str:
    r"""Return the answer in a text. The text is an answer, or a solution. In a solution, the answer is after ####
    (GSM8K) or in the last \boxed{…} (MATH).
    """
    if "####" in text:
        return text.rpartition("####")[2].strip()
    return boxed(text) or text.strip() if "\\boxed" in text else text.strip()


def _level(level: str | int | None) -> int | None:
    """Return a level as a number, such as 5 for "Level 5". Return None if there is no number."""
    digits = str(level).split()[-1:] if level is not None else []
    return int(digits[0]) if digits and digits[0].isascii() and digits[0].isdigit() else None
