"""A problem, and where problems come from."""

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
        id: what its source calls it.
        text: the question, as a player reads it.
        answer: the gold one.
        kind: its subject or family; "" where its source does not say.
        level: how hard, as its source says; None where it does not.
        source: where it is from.
        key: the hash of its content; problems of one key are never in two splits.
        form: how answers are compared, see `scoring`.
        expert: a program in Python that prints the answer, where there is one.
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
        """Whether an answer is right. It may cost time and memory: call it where both are limited."""
        return verdict(self.form, self.answer, answer)


class Problems(Protocol):
    """A source of problems."""

    @property
    def version(self) -> str:
        """Names all that its problems depend on besides the options."""
        ...

    def sizes(self) -> dict[str, int | None]:
        """Problems of each split, None for no end."""
        ...

    def problem(self, split: str, index: int) -> Problem:
        """One problem: the same for the same split and index, whatever was asked before and in whatever process.

        Raises:
            TaskError: it cannot be had.
        """
        ...


def text_key(text: str) -> str:
    """The hash of a question, whatever its spaces and capitals."""
    return digest(re.sub(r"\s+", "", text).casefold())
