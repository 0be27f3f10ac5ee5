r"""Decides which texts of a model may be passed to math-verify.

In math-verify 0.9.0 and the libraries that it uses, an answer can reach `eval` or `exec` in three ways:

- `math_verify.parser.extract_expr` passes plain expressions to `sympy.parse_expr`, which evaluates them as Python. So
  this package enables only LaTeX, which has another parser.
- \sum_{n=0}^{\infty}\frac{\text{<Python>}^{n}}{n!}+1 becomes a sum with a symbol named <Python>. If this sum is
  compared with \sqrt{3}/4, `sympy.core.evalf.hypsum` computes its value. `hypsum` calls `lambdify`, which writes the
  symbol's name into source code and executes this code. Even Python without capital letters and parentheses can write
  files or start programs.
- `latex2sympy` reads a number by `sympy.Number(text)`, which evaluates the text as Python. This is safe, because the
  lexer of `latex2sympy` passes only digits and a point.

So a text is parsed only if it consists of the characters and commands that this module lists. These characters and
commands cannot form sums, limits, integrals, texts or operators. A parsed expression may contain only the types of
nodes that this module lists, and symbols that are letters. Expressions that would take long to compute are refused too.
For this purpose, `size` computes an upper bound of the numbers in an expression before any evaluation. The parser
itself does not evaluate expressions. A refused answer is still right if its text equals the gold answer.
"""

from __future__ import annotations

import math
import re
from typing import Any

import sympy
from sympy.core.function import AppliedUndef

# Maximum characters of a formula; parsing 400 characters takes 0.2 s. Of 8,583 answers of MATH and AIME, all except one
# have at most 159 characters.
MAX_LENGTH = 400
MAX_DIGITS = 300  # maximum digits of one number
MAX_DEPTH = 12  # maximum depth of nested brackets; the parser's time grows with the depth
# Maximum numbers of bars `|`, functions and factorials. With these numbers, the parser takes a second. With a few more,
# the time doubles, because the parser backtracks.
MAX_BARS, MAX_FUNCTIONS, MAX_FACTORIALS = 8, 6, 8
MAX_BITS = 50_000  # maximum bits of an intermediate number; 2004!, an answer of MATH, has 19,090 bits
MAX_ANGLE_BITS = 2_000  # maximum bits of the argument of a sine; to compute the sine, pi needs as many bits

FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc",
    "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "ln", "log", "exp",
}  # fmt: skip
COMMANDS = FUNCTIONS | {
    "frac", "sqrt", "binom", "pi", "infty", "lfloor", "rfloor", "lceil", "rceil", "alpha", "beta", "delta", "epsilon",
    "theta", "phi", "varphi", "omega", "lambda", "mu", "rho", "sigma", "tau", "psi",
}  # fmt: skip
_CHARACTERS = re.compile(r"[0-9A-Za-z+\-*/^_(){}\[\]|!. \\]*")
_COMMAND = re.compile(r"\\([A-Za-z]*)")
# The parser reads two adjacent numbers as a sum and `2E9` as a power of ten; `|_`, `|^` and `_` have special meanings.
_REFUSED = re.compile(rf"\d \d|\d\s*E|\|\s*[_^]|_(?!\{{\d{{1,4}}\}}|\{{[A-Za-z]\}})|!!|\d{{{MAX_DIGITS}}}|__")
_BINOMIAL = re.compile(r"\\binom(?!\{[\dA-Za-z+\-]{1,8}\}\{[\dA-Za-z+\-]{1,8}\})|\\binom\{[^}]*\d{5}")

_FUNCTIONS = (
    sympy.sin, sympy.cos, sympy.tan, sympy.cot, sympy.sec, sympy.csc, sympy.asin, sympy.acos, sympy.atan, sympy.acot,
    sympy.asec, sympy.acsc, sympy.sinh, sympy.cosh, sympy.tanh, sympy.asinh, sympy.acosh, sympy.atanh,
)  # fmt: skip
_ROUND = (sympy.Abs, sympy.floor, sympy.ceiling, sympy.log)
_ATOMS = (sympy.Rational, sympy.NumberSymbol, type(sympy.I), type(sympy.oo), type(-sympy.oo))
_NAME = re.compile(r"[A-Za-z]{1,10}(_\{?[0-9A-Za-z]{1,4}\}?)?")


class UnsafeExpression(ValueError):
    """The text or the parsed expression must not be evaluated."""


def check_text(text: str) -> None:
    """Check that a text is a short formula that the parser may read.

    Raises:
        UnsafeExpression: the text is not a short formula.
    """
    if len(text) > MAX_LENGTH or not _CHARACTERS.fullmatch(text):
        raise UnsafeExpression("the text is too long, or it has characters that formulas do not have")
    if unknown := {name for name in _COMMAND.findall(text) if name not in COMMANDS}:
        raise UnsafeExpression(f"the text has commands that are not allowed: {', '.join(sorted(unknown))}")
    if _REFUSED.search(text) or _BINOMIAL.search(text) or _too_many(text):
        raise UnsafeExpression("the text has syntax that formulas do not have")
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if depth or deepest > MAX_DEPTH:
        raise UnsafeExpression("the brackets do not match, or they are nested too deeply")


def _too_many(text: str) -> bool:
    """Return whether a text has too many bars, functions or factorials, which are slow to parse."""
    functions = sum(name in FUNCTIONS for name in _COMMAND.findall(text))
    factorials = text.count("!") + text.count("\\binom")
    return text.count("|") > MAX_BARS or functions > MAX_FUNCTIONS or factorials > MAX_FACTORIALS


def check_tree(node: Any) -> None:
    """Check that a parsed formula consists of known functions, numbers and letters, and is small enough to compute.

    Raises:
        UnsafeExpression: the formula has other nodes, or it is too large.
    """
    if not isinstance(node, sympy.Expr) or size(node) > MAX_BITS:
        raise UnsafeExpression("this is not an expression, or it is too large to compute")


def size(node: sympy.Basic) -> float:
    """Return an upper bound of the number of bits of all numbers that an exact evaluation computes.

    Raises:
        UnsafeExpression: a node has an unknown type, or a number is too large.
    """
    if isinstance(node, sympy.Symbol):
        if not _NAME.fullmatch(node.name):
            raise UnsafeExpression("a symbol is not a letter")
        return 3.0  # at most points, the value of a symbol is below 8
    if isinstance(node, _ATOMS):
        return float(max(abs(node.p).bit_length(), node.q.bit_length(), 1)) if isinstance(node, sympy.Rational) else 4.0
    parts = [size(part) for part in node.args]
    bits = _composed(node, parts)
    if bits > MAX_BITS:
        raise UnsafeExpression("a number is too large to compute")
    return bits


def _composed(node: sympy.Basic, parts: list[float]) -> float:
    match node:
        case sympy.Add() | sympy.Mul():
            return sum(parts) + len(parts)
        case sympy.Pow():
            return _power(node, *parts)
        case sympy.exp():
            return _raised(2.0, parts[0])
        case sympy.factorial():
            return _raised(max(parts[0], 1.0), parts[0])
        case sympy.binomial():
            return _raised(1.0, parts[0])
    if isinstance(node, _FUNCTIONS):
        if parts[0] > MAX_ANGLE_BITS:
            raise UnsafeExpression("the angle is too large")
        return 64.0
    if isinstance(node, (*_ROUND, AppliedUndef)):
        return sum(parts)
    raise UnsafeExpression(f"{type(node).__name__} is not an allowed type of node")


def _power(node: sympy.Pow, base: float, exponent: float) -> float:
    if isinstance(node.exp, sympy.Rational):
        return base * max(1.0, float(abs(node.exp.p)))
    return _raised(base, exponent)


def _raised(base: float, exponent: float) -> float:
    """Return an upper bound of the bits of x**y, if x has `base` bits and y has `exponent` bits."""
    return math.inf if exponent > 40 else base * 2.0**exponent
