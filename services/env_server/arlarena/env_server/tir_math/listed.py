"""Problems that are listed somewhere: a training set, of which a part is for validation, and named test sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from arlarena.env_server.environment import TaskError
from arlarena.env_server.hashing import digest
from arlarena.env_server.tir_math.errors import ProblemsError
from arlarena.env_server.tir_math.problems import Problem
from arlarena.env_server.tir_math.rows import Placed, problem_of

TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows, and what they are called."""

    name: str
    rows: Iterable[Placed]


@dataclass(slots=True)
class LeftOut:
    """How many rows became no problem, and why.

    Attributes:
        repeated: the same question was in the set before.
        unanswered: the answer is empty.
        tested: a training row whose question is in a test set.
    """

    repeated: int = 0
    unanswered: int = 0
    tested: int = 0


class ListedProblems:
    """Problems of sets that are read once.

    Args:
        train: the training set, None for none
        tests: test sets, by the name of their split
        validation_share: of the training problems, by the hash of their questions, 0 to 1

    Raises:
        ProblemsError: a set cannot be read, or is empty.
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
                raise ProblemsError(f"{train.name}: no problem is left for training")
            self._splits = {name: part for name, part in parts.items() if part} | self._splits

    def _read(self, rows: Rows, tested: frozenset[str]) -> list[Problem]:
        found: dict[str, Problem] = {}
        for placed in rows.rows:
            problem = problem_of(placed, rows.name)
            if problem is None:
                self.left_out.unanswered += 1
            elif problem.key in found:
                self.left_out.repeated += 1
            elif problem.key in tested:
                self.left_out.tested += 1
            else:
                found[problem.key] = problem
        if not found:
            raise ProblemsError(f"{rows.name}: no problem in it")
        return list(found.values())

    @property
    def version(self) -> str:
        """That of the questions and answers themselves."""
        lines = [f"{split} {one.key} {one.answer}" for split, problems in self._splits.items() for one in problems]
        return f"listed-{digest(chr(10).join(lines))[:8]}"

    def sizes(self) -> dict[str, int | None]:
        """Problems of each split."""
        return {split: len(problems) for split, problems in self._splits.items()}

    def problem(self, split: str, index: int) -> Problem:
        """One problem.

        Raises:
            TaskError: there is none.
        """
        problems = self._splits.get(split, [])
        if not 0 <= index < len(problems):
            raise TaskError(f"no problem {split}/{index}: {split!r} has {len(problems)}")
        return problems[index]
