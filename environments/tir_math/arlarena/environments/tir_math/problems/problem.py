"""Problems, and the protocol of sources of problems."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from arlarena.environment.hashing import digest
from arlarena.environments.tir_math.judge.scoring import Form, verdict


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        id: identifier in the source.
        text: the question.
        answer: the gold answer.
        kind: the subject or the family; "" if unknown.
        level: the difficulty that the source states; None if unknown.
        source: name of the source.
        key: hash of the content. Problems with equal keys are always in the same split.
        form: the form of answers. The form determines how answers are compared (see `scoring`).
        expert: a Python program that prints the answer; None if there is no such program.
    """

    id: str
    text: str
    answer: str
    kind: str
    level: int | None
    source: str
    key: str
    form: Form = "math"
    expert: str | None = None

    def right(self, answer: str) -> bool:
        """Return whether an answer is right. This may take much time and memory, so call it only in a process with
        limits.
        """
        return verdict(self.form, self.answer, answer)


class Problems(Protocol):
    """A source of problems."""

    @property
    def version(self) -> str:
        """A text that changes whenever the problems change, such as after a change of the files or the generator."""
        ...

    def sizes(self) -> dict[str, int | None]:
        """Return the number of problems in each split; None for unlimited splits."""
        ...

    def problem(self, split: str, index: int) -> Problem:
        """Return one problem. Equal arguments always give the same problem.

        Raises:
            TaskError: the problem does not exist.
        """
        ...


def text_key(text: str) -> str:
    """Return the hash of a question, ignoring spaces and case."""
    return digest(re.sub(r"\s+", "", text).casefold())
