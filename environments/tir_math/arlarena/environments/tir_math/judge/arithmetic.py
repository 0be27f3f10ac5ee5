"""Evaluates arithmetic on integers: Python's parser builds the tree, and no code is executed."""

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
    """Return the value of an expression of + - * / and parentheses, and the numbers in it in order.

    >>> evaluate("(3 + 4) * 2")
    (Fraction(14, 1), [3, 4, 2])

    Raises:
        NoArithmetic: the text is no such expression, or divides by zero.
    """
    if len(text) > MAX_LENGTH or _REFUSED.search(text):
        raise NoArithmetic("other characters than those of arithmetic, or a number too long")
    numbers: list[int] = []
    try:
        tree = ast.parse(re.sub(r"\b0+(?=\d)", "", text).strip(), mode="eval")
        return _value(tree.body, numbers), numbers
    except (SyntaxError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise NoArithmetic("it is not well formed, or divides by zero") from error


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
    raise NoArithmetic(f"{type(node).__name__} in the place of a number")
