r"""What may be given to a mathematics library, of texts that a model wrote.

Three ways lead from an answer to `eval` or `exec` in what math-verify 0.9.0 builds on:

- `math_verify.parser.extract_expr` gives plain expressions to `sympy.parse_expr`, which evaluates them as Python. We
  ask for LaTeX alone, which has a parser of its own.
- \sum_{n=0}^{\infty}\frac{\text{<Python>}^{n}}{n!}+1 becomes a sum with a symbol that is called <Python>. To compare
  it with \sqrt{3}/4 is to evaluate it numerically, for which `sympy.core.evalf.hypsum` calls `lambdify`, which prints
  the symbol's name into a source text, and executes that. What can be said without capitals and parentheses is enough
  to write files, or to start programs.
- `latex2sympy` reads a number by `sympy.Number(text)`, which evaluates it as Python. Its lexer lets only digits and a
  point that far.

So an answer that is to be parsed consists of the characters and commands below, which make no sums, limits, integrals,
texts or operators; and what was parsed consists of the nodes below, and of symbols that are letters. What is refused
may still be equal as text. Numbers that would take long to compute are refused too: `size` bounds them before anything
is evaluated, and the parser does not evaluate.
"""

from __future__ import annotations

import math
import re
from typing import Any

import sympy
from sympy.core.function import AppliedUndef

MAX_LENGTH = 400  # the longest of 8,583 answers of MATH and AIME has 159; the parser takes 0.2 s for this
MAX_DIGITS = 300  # of one number
MAX_DEPTH = 12  # of brackets: the parser's time grows with it
# The parser takes a second for so many; it takes twice as much for some more, as it tries what belongs to what.
MAX_BARS, MAX_FUNCTIONS, MAX_FACTORIALS = 8, 6, 8
MAX_BITS = 50_000  # of a number on the way; 2004!, an answer of MATH, has 19,090
MAX_ANGLE_BITS = 2_000  # of the argument of a sine, which takes as many digits of pi

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
# Two numbers side by side are a sum to the parser, `2E9` is a power of ten, `|_` and `|^` insert, `_` names.
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
    """A text, or what was parsed of it, that is not evaluated."""


def check_text(text: str) -> None:
    """Let nothing through to the parser but short formulas.

    Raises:
        Refused: it is none.
    """
    if len(text) > MAX_LENGTH or not _CHARACTERS.fullmatch(text):
        raise UnsafeExpression("too long, or with other characters than formulas have")
    if unknown := {name for name in _COMMAND.findall(text) if name not in COMMANDS}:
        raise UnsafeExpression(f"commands: {', '.join(sorted(unknown))}")
    if _REFUSED.search(text) or _BINOMIAL.search(text) or _counts(text):
        raise UnsafeExpression("not written as formulas are")
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if depth or deepest > MAX_DEPTH:
        raise UnsafeExpression("brackets that do not match, or too deep")


def _counts(text: str) -> bool:
    """Whether there is too much of what costs most."""
    functions = sum(name in FUNCTIONS for name in _COMMAND.findall(text))
    factorials = text.count("!") + text.count("\\binom")
    return text.count("|") > MAX_BARS or functions > MAX_FUNCTIONS or factorials > MAX_FACTORIALS


def check_tree(node: Any) -> None:
    """Let nothing through to evaluation but known functions of numbers and letters, of a size that can be computed.

    Raises:
        Refused: it is something else, or too large.
    """
    if not isinstance(node, sympy.Expr) or size(node) > MAX_BITS:
        raise UnsafeExpression("not an expression, or too large to compute")


def size(node: sympy.Basic) -> float:
    """A bound on the bits of every number that evaluating this exactly would meet.

    Raises:
        Refused: a node of an unknown kind, or a number beyond all bounds.
    """
    if isinstance(node, sympy.Symbol):
        if not _NAME.fullmatch(node.name):
            raise UnsafeExpression("a symbol that is no letter")
        return 3.0  # most are tried with values below 8
    if isinstance(node, _ATOMS):
        return float(max(abs(node.p).bit_length(), node.q.bit_length(), 1)) if isinstance(node, sympy.Rational) else 4.0
    parts = [size(part) for part in node.args]
    found = _composed(node, parts)
    if found > MAX_BITS:
        raise UnsafeExpression("a number too large to compute")
    return found


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
    raise UnsafeExpression(f"{type(node).__name__} is none of the known kinds")


def _power(node: sympy.Pow, base: float, exponent: float) -> float:
    if isinstance(node.exp, sympy.Rational):
        return base * max(1.0, float(abs(node.exp.p)))
    return _raised(base, exponent)


def _raised(base: float, exponent: float) -> float:
    """Bits of a number of `base` bits to the power of one of `exponent` bits."""
    return math.inf if exponent > 40 else base * 2.0**exponent
