"""Sums and products of integers, read and computed without evaluating them as a program."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_LENGTH = 300
MAX_DIGITS = 12  # of one number
_TOKEN = re.compile(r"\d+|[-+*/()]")


class NoArithmetic(ValueError):
    """A text that is no arithmetic expression."""


def evaluate(text: str) -> tuple[Fraction, list[int]]:
    """The value of an expression of + - * / and parentheses, and its numbers in order.

    >>> evaluate("(3 + 4) * 2")
    (Fraction(14, 1), [3, 4, 2])

    Raises:
        NoArithmetic: it is none, or divides by zero.
    """
    tokens = _TOKEN.findall(text)
    if len(text) > MAX_LENGTH or "".join(tokens) != re.sub(r"\s+", "", text) or re.search(r"\d\s+\d", text):
        raise NoArithmetic("other characters than those of arithmetic")
    if any(len(token) > MAX_DIGITS for token in tokens):
        raise NoArithmetic("a number too long")
    reader = _Reader(tokens)
    try:
        value = reader.sum()
    except (IndexError, ZeroDivisionError, RecursionError) as error:
        raise NoArithmetic("it ends too early, or divides by zero") from error
    if reader.position != len(tokens):
        raise NoArithmetic("more than one expression")
    return value, [int(token) for token in tokens if token.isdigit()]


class _Reader:
    """Recursive descent: each method reads what it is called, and leaves `position` behind it."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self.position = tokens, 0

    def _next(self, of: str) -> str | None:
        """The next token, if it is one of these."""
        if self.position < len(self._tokens) and self._tokens[self.position] in tuple(of):
            self.position += 1
            return self._tokens[self.position - 1]
        return None

    def sum(self) -> Fraction:
        value = self.product()
        while sign := self._next("+-"):
            value = value + self.product() if sign == "+" else value - self.product()
        return value

    def product(self) -> Fraction:
        value = self.factor()
        while sign := self._next("*/"):
            value = value * self.factor() if sign == "*" else value / self.factor()
        return value

    def factor(self) -> Fraction:
        if sign := self._next("+-"):
            return -self.factor() if sign == "-" else self.factor()
        if self._next("("):
            value = self.sum()
            if not self._next(")"):
                raise NoArithmetic("an open parenthesis")
            return value
        token = self._tokens[self.position]
        if not token.isdigit():
            raise NoArithmetic(f"{token} in the place of a number")
        self.position += 1
        return Fraction(int(token))
