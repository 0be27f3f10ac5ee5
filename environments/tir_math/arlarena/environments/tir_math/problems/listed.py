"""Problems from files or data sets (*listed* problems): a training set and named test sets. A part of the training set
is used for validation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from arlarena.environment.hashing import digest
from arlarena.environment.protocols import TaskError
from arlarena.environments.tir_math.errors import ProblemsError
from arlarena.environments.tir_math.problems.problem import Problem
from arlarena.environments.tir_math.problems.rows import LocatedRow, problem_of
from arlarena.proto.text.wording import counted

TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a set of problems. `name`: the default of `Problem.source`. `label`: the name of the set in error
    messages.
    """

    name: str
    label: str
    rows: Iterable[LocatedRow]


@dataclass(slots=True)
class LeftOut:
    """Counts of rows that are left out, by reason.

    Attributes:
        repeated: rows with a question that occurs earlier in the set.
        unanswered: rows with an empty answer.
        tested: training rows with a question that is also in a test set.
    """

    repeated: int = 0
    unanswered: int = 0
    tested: int = 0

    def add(self, other: LeftOut) -> None:
        """Add the counts of another set to these counts."""
        self.repeated += other.repeated
        self.unanswered += other.unanswered
        self.tested += other.tested

    def reasons(self) -> str:
        """Return the counts as text, such as "2 that repeat an earlier question, 1 that have no answer"."""
        counts = {
            "repeat an earlier question": self.repeated,
            "have no answer": self.unanswered,
            "are for training but also in a test set": self.tested,
        }
        return ", ".join(f"{count} that {reason}" for reason, count in counts.items() if count)


class ListedProblems:
    """Problems from files or data sets. They are read when this object is created.

    Args:
        train: the training set, or None.
        tests: the test sets by the names of their splits.
        validation_share: share of the training problems that is used for validation, from 0 to 1. The hash of the
            question decides whether a problem is used for validation.

    Raises:
        ProblemsError: a set cannot be read or is empty, or no problem is left for training.
    """

    def __init__(self, train: Rows | None, tests: Mapping[str, Rows], validation_share: float) -> None:
        self.left_out = LeftOut()
        self._splits = {name: self._read(rows, frozenset()) for name, rows in tests.items()}
        if train is not None:
            tested = frozenset(problem.key for problems in self._splits.values() for problem in problems)
            problems = self._read(train, tested)
            held_out = {problem.key for problem in problems if int(problem.key, 16) % 10**6 < validation_share * 10**6}
            parts = {
                TRAIN: [problem for problem in problems if problem.key not in held_out],
                VALIDATION: [problem for problem in problems if problem.key in held_out],
            }
            if not parts[TRAIN]:
                raise ProblemsError(f"{train.label}: no problem is left for training; set a lower validation_share")
            self._splits = {name: part for name, part in parts.items() if part} | self._splits

    def _read(self, rows: Rows, tested: frozenset[str]) -> list[Problem]:
        problems: dict[str, Problem] = {}
        left_out, seen = LeftOut(), 0
        for row in rows.rows:
            seen += 1
            problem = problem_of(row, rows.name)
            if problem is None:
                left_out.unanswered += 1
            elif problem.key in problems:
                left_out.repeated += 1
            elif problem.key in tested:
                left_out.tested += 1
            else:
                problems[problem.key] = problem
        if not problems:
            why = f"none of its {counted(seen, 'problem')} is left: {left_out.reasons()}"
            raise ProblemsError(f"{rows.label}: {why if seen else 'it has no problems'}")
        self.left_out.add(left_out)
        return list(problems.values())

    @property
    def version(self) -> str:
        """A hash of all questions and answers."""
        lines = [f"{split} {p.key} {p.answer}" for split, problems in self._splits.items() for p in problems]
        return f"listed-{digest(chr(10).join(lines))[:8]}"

    def sizes(self) -> dict[str, int | None]:
        """Return the number of problems in each split."""
        return {split: len(problems) for split, problems in self._splits.items()}

    def problem(self, split: str, index: int) -> Problem:
        """Return one problem.

        Raises:
            TaskError: the split has no such problem.
        """
        problems = self._splits.get(split, [])
        if not 0 <= index < len(problems):
            raise TaskError(f"no problem {split}/{index}: the split {split!r} has {len(problems)} problems")
        return problems[index]
