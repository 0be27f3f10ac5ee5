"""Evaluates arithmetic expressions of integers. Python's parser builds the syntax tree; no code is executed."""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction

MAX_LENGTH = 300
_REFUSED = re.compile(r"[^0-9+\-*/()\s]|\d\s+\d|\*\s*\*|/\s*/|[\d]{13}")  # numbers have at most 12 digits
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


class NoArithmetic(ValueError):
    """The text is not an arithmetic expression."""


def evaluate(text: str) -> tuple[Fraction, list[int]]:
    """Return (value, numbers) of an expression with + - * / and parentheses. `numbers`: its numbers from left to right.

    >>> evaluate("(3 + 4) * 2")
    (Fraction(14, 1), [3, 4, 2])

    Raises:
        NoArithmetic: the text is not such an expression, or it divides by zero.
    """
    if len(text) > MAX_LENGTH or _REFUSED.search(text):
        raise NoArithmetic("the text is too long, a number is too long, or a character does not belong to arithmetic")
    numbers: list[int] = []
    try:
        tree = ast.parse(re.sub(r"\b0+(?=\d)", "", text).strip(), mode="eval")
        return _value(tree.body, numbers), numbers
    except (SyntaxError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise NoArithmetic("the expression is not well formed, or it divides by zero") from error


def _value(node: ast.expr, numbers: list[int]) -> Fraction:
    match node:
        case ast.Constant(value=int(number)):
            numbers.append(number)
            return Fraction(number)
        case ast.UnaryOp(operand=operand):
            value = _value(operand, numbers)
            return -value if isinstance(node.op, ast.USub) else value
        case ast.BinOp(left=left, right=right):
            first, second = _value(left, numbers), _value(right, numbers)
            result: Fraction = _OPERATORS[type(node.op)](first, second)
            return result
    raise NoArithmetic(f"a number is expected, but there is {type(node).__name__}")
