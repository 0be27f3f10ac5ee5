r"""Formulas: parsed by math-verify, compared by their values.

Two formulas are the same if they have the same value, to 20 digits behind the point, wherever it is looked: constants
as they are, others at a few fixed points. That refutes in a millisecond what differs, where simplifying may take for
ever (which `math_verify.verify` does, so it is not used), and needs no luck to confirm: points at which different
short formulas agree to 20 digits are not met by chance.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from math import log10

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse
from sympy.core.function import AppliedUndef

from arlarena.environments.tir_math.judge.numbers import read_number, stands_for
from arlarena.environments.tir_math.judge.parser_guard import FUNCTIONS, check_text, check_tree, size

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we set no alarm, which is for the caller

# LaTeX alone: plain expressions would be evaluated as Python (see `guard`). It is tidy already.
_LATEX = LatexExtractionConfig(
    normalization_config=NormalizationConfig(
        basic_latex=False, units=False, malformed_operators=False, nits=False, boxed="none", equations=False
    )
)
DIGITS, SPARE = 30, 10  # computed, besides those before the point; and of these, not compared
# Of each point, the range of all letters: positive ones, where roots and logarithms are real, then others.
POINTS = ((0, 1), (1, 3), (2, 5), (12, 30), (30, 60), (-2, 2), (-3, 0))
_GAMMAS = (sympy.factorial, sympy.binomial)
ENOUGH = 2  # points with values, to trust them

_FUNCTION_NAMES = "|".join(sorted(FUNCTIONS))
# What belongs to a function that is written without parentheses: \ln 2/3 is a third of \ln 2.
_PART = (
    r"\d+(?:\.\d+)?|[A-Za-z]|\\(?:pi|theta|alpha|beta|phi|omega)(?![A-Za-z])\s*|°"
    r"|\\frac\{[^{}]*\}\{[^{}]*\}|\\sqrt\{[^{}]*\}"
)
_ARGUMENT = rf"(?:{_PART})(?:{_PART}|\^\{{[^{{}}]*\}})*"
_SPELLING = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"(\\(?:{_FUNCTION_NAMES})(?![A-Za-z])(?:[\^_]\{{[^{{}}]*\}})*)\s*({_ARGUMENT})", r"\1(\2)"),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),
        (r"(?<![\w.}])(\d+)\\frac\{(\d+)\}\{(\d+)\}", r"(\1+\\frac{\2}{\3})"),  # a mixed number, also before a letter
        (r"(\d*)\.(\d+)", lambda found: f"(\\frac{{{int(found[1] + found[2])}}}{{1{'0' * len(found[2])}}})"),
        (r"\\sqrt\[([3579])\]\{-(\d+)\}", r"(-\\sqrt[\1]{\2})"),  # the real root, not sympy's complex one
        (r"°", r"*\\frac{\\pi}{180}"),
        (r"(?<=[\d)!])(?=\()", "*"),  # 2(3) is read as a mixed number
    )
)
# Letters but f, g and h are no functions, and the parser drops what I is raised to.
_PRODUCT, _UNIT = re.compile(r"((?<![\\A-Za-z])[A-Za-eI-Zi-z]|\\pi)\s*(?=\()"), re.compile(r"I(?=\^)")
_WORD = re.compile(r"\\[A-Za-z]+|[A-Za-z]+")


def _spelled(text: str) -> str:
    """A tidy text as the parser reads it rightly."""
    for pattern, replacement in _SPELLING:
        text = pattern.sub(replacement, text)
    return _UNIT.sub("(I)", _PRODUCT.sub(r"\1*", _WORD.sub(_letters, text)))


_CONSTANTS = str.maketrans("iE", "Ie")  # as the parser knows them
_CAPITAL = "_{9999}"  # the parser reads capitals as small letters, which this index tells apart
_CONSTANT = re.compile(r"(I)_\{9999\}")


def _letters(found: re.Match[str]) -> str:
    """Letters side by side as a product, for the parser takes `dx` for a differential."""
    word = found[0]
    if word.startswith("\\"):
        return word
    index = "" if found.string[found.end() : found.end() + 1] == "_" else _CAPITAL
    letters = "".join(f"{one}{index}*" if one.isupper() else f"{one}*" for one in word.translate(_CONSTANTS))
    return _CONSTANT.sub(r"\1", letters)[:-1]


@lru_cache(maxsize=64)
def read_expression(text: str) -> sympy.Expr:
    """A tidy text as a formula, unevaluated.

    Raises:
        Refused: it is one that is not evaluated.
        ValueError: it is none.
    """
    if number := read_number(text):
        return sympy.Rational(number.value.numerator, number.value.denominator)
    spelled = _spelled(text)
    check_text(spelled)
    found = parse(
        f"${spelled}$",
        [_LATEX],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    if not found:
        raise ValueError(f"no formula: {text}")
    check_tree(found[0])
    node: sympy.Expr = found[0]
    return node


def same_expression(gold: str, answer: str) -> bool:
    """Whether two tidy texts are formulas of one value.

    Raises:
        ValueError: one is no formula, or is not evaluated. sympy raises other errors for what it cannot compute.
    """
    one, other = read_expression(gold), read_expression(answer)
    if one == other:  # infinity, which has no value, among them
        return True
    if one.free_symbols != other.free_symbols:
        return False
    decimal, same = "." in gold or "." in answer, _precision(one, other)
    agreed = 0
    for first, second in _values(one, other):
        if _same(first, second, same, decimal):
            agreed += 1
        elif first.is_real or one.has(sympy.I):
            return False
        # Else it is outside of what is meant: there roots of negative numbers may differ in sign.
    return agreed >= (ENOUGH if one.free_symbols else 1)


def same_relation(gold: tuple[str, str], answer: tuple[str, str], ordered: bool) -> bool:
    """Whether two equations (two inequalities, if `ordered`) say the same of their sides: the differences of their
    sides are the same but for a factor, which is positive in an inequality.
    """
    one, other = (read_expression(f"({left})-({right})") for left, right in (gold, answer))
    same = _precision(one, other)
    pairs = [pair for pair in _values(one, other) if not any(_is_zero(value, same) for value in pair)]
    factors = [first / second for first, second in pairs]
    if len(factors) < ENOUGH or not all(_same(factors[0], factor, same, False) for factor in factors):
        return False
    return not ordered or bool(sympy.re(factors[0]) > 0)


def _values(one: sympy.Expr, other: sympy.Expr) -> Iterator[tuple[sympy.Expr, sympy.Expr]]:
    """Both values at each point where both have one."""
    symbols, digits = one.free_symbols, _digits(one, other)
    for number, (low, high) in enumerate(POINTS if symbols else POINTS[:1]):
        point = {symbol: _drawn(f"{symbol}/{number}", low, high) for symbol in symbols}
        pair = _value(one, point, digits), _value(other, point, digits)
        if all(part.is_Float or part.is_Integer for value in pair for part in value.as_real_imag()):
            yield pair


def _value(node: sympy.Expr, point: dict[sympy.Basic, sympy.Rational], digits: int) -> sympy.Expr:
    """The value of a formula at a point. Of an unknown function it is drawn, the same for the same argument."""
    unknown = sorted(node.atoms(AppliedUndef), key=lambda call: len(list(sympy.preorder_traversal(call))))
    values: dict[sympy.Basic, sympy.Expr] = {}
    for call in unknown:
        arguments = [argument.xreplace(values).evalf(DIGITS, subs=point) for argument in call.args]
        seed = "/".join([str(call.func), *(str(sympy.N(argument, DIGITS // 2)) for argument in arguments)])
        values[call] = _drawn(seed, 1, 3)
    result: sympy.Expr = node.xreplace(values).evalf(digits, subs=point)
    return result


def _drawn(seed: str, low: int, high: int) -> sympy.Rational:
    """A number between `low` and `high` that depends on the seed alone."""
    drawn = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=4).digest(), "big")
    return sympy.Rational(low * 10**6 + drawn % ((high - low) * 10**6) + 1, 10**6 + 3)


def _digits(one: sympy.Expr, other: sympy.Expr) -> int:
    """How many tell 2^{1000} from its successor; fewer for factorials of other than integers, which take long."""
    if any(not part.args[0].is_Integer for node in (one, other) for part in node.atoms(*_GAMMAS)):
        return DIGITS
    return DIGITS + int(max(size(one), size(other)) * log10(2))


def _precision(one: sympy.Expr, other: sympy.Expr) -> sympy.Rational:
    """The share of a value that two computed ones may differ by."""
    return sympy.Rational(1, 10 ** (_digits(one, other) - SPARE))


def _is_zero(value: sympy.Expr, same: sympy.Rational) -> bool:
    """Whether a computed value is zero: exactly, or left without a digit that is certain."""
    return bool(value == 0 or (value.is_Float and value._prec <= 4 and abs(value) < same))


def _same(one: sympy.Expr, other: sympy.Expr, same: sympy.Rational, decimal: bool) -> bool:
    """Whether two computed values are the same; `decimal`, one of them was written with a decimal point."""
    if _is_zero(one, same) or _is_zero(other, same):
        return bool(abs(one - other) < same)
    if abs(one - other) <= same * max(abs(one), abs(other)):
        return True
    if not (decimal and one.is_real and other.is_real):
        return False
    return stands_for(Fraction(str(one)), Fraction(str(other)))
