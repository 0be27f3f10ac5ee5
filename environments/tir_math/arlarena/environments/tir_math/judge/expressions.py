r"""Formulas: math-verify parses them, and this module compares their values.

Two formulas are equal if their values agree to 20 digits. Formulas with variables are evaluated at a few fixed points.
This evaluation takes a millisecond. In contrast, `math_verify.verify` simplifies formulas, and simplification may never
end. It is practically impossible that different short formulas agree to 20 digits at all points.
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

from arlarena.environments.tir_math.judge.numbers import approximates, read_number
from arlarena.environments.tir_math.judge.parser_guard import FUNCTIONS, check_text, check_tree, size

# math-verify warns that no timeout is set. No timeout is needed, because the judge's process has limits.
logging.getLogger("math_verify").setLevel(logging.ERROR)

# Only LaTeX is parsed, because plain expressions would be evaluated as Python (see `parser_guard`). The texts are
# already normalised, so math-verify does not normalise them.
_LATEX = LatexExtractionConfig(
    normalization_config=NormalizationConfig(
        basic_latex=False, units=False, malformed_operators=False, nits=False, boxed="none", equations=False
    )
)
# DIGITS: number of digits computed after the decimal point. SPARE: number of the last digits that are not compared.
DIGITS, SPARE = 30, 10
# For each point, the range from which the values of all letters are drawn. The first ranges are positive, so that
# roots and logarithms are real.
POINTS = ((0, 1), (1, 3), (2, 5), (12, 30), (30, 60), (-2, 2), (-3, 0))
_GAMMAS = (sympy.factorial, sympy.binomial)
ENOUGH = 2  # minimum number of points at which two formulas or relations must agree

_FUNCTION_NAMES = "|".join(sorted(FUNCTIONS))
# A function's argument without parentheses: \ln 2/3 means (\ln 2)/3.
_PART = (
    r"\d+(?:\.\d+)?|[A-Za-z]|\\(?:pi|theta|alpha|beta|phi|omega)(?![A-Za-z])\s*|°"
    r"|\\frac\{[^{}]*\}\{[^{}]*\}|\\sqrt\{[^{}]*\}"
)
_ARGUMENT = rf"(?:{_PART})(?:{_PART}|\^\{{[^{{}}]*\}})*"
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"(\\(?:{_FUNCTION_NAMES})(?![A-Za-z])(?:[\^_]\{{[^{{}}]*\}})*)\s*({_ARGUMENT})", r"\1(\2)"),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),
        (r"(?<![\w.}])(\d+)\\frac\{(\d+)\}\{(\d+)\}", r"(\1+\\frac{\2}{\3})"),  # a mixed number, even before a letter
        (r"(\d*)\.(\d+)", lambda found: f"(\\frac{{{int(found[1] + found[2])}}}{{1{'0' * len(found[2])}}})"),
        (r"\\sqrt\[([3579])\]\{-(\d+)\}", r"(-\\sqrt[\1]{\2})"),  # the real root, not sympy's complex one
        (r"°", r"*\\frac{\\pi}{180}"),
        (r"(?<=[\d)!])(?=\()", "*"),  # the parser reads 2(3) as a mixed number
    )
)
# Letters other than f, g and h are factors, not functions. I gets parentheses, because the parser would drop the
# exponent of a bare I.
_PRODUCT, _UNIT = re.compile(r"((?<![\\A-Za-z])[A-Za-eI-Zi-z]|\\pi)\s*(?=\()"), re.compile(r"I(?=\^)")
_WORD = re.compile(r"\\[A-Za-z]+|[A-Za-z]+")


def _rewritten(text: str) -> str:
    """Rewrite a normalised text so that the parser reads it correctly."""
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return _UNIT.sub("(I)", _PRODUCT.sub(r"\1*", _WORD.sub(_letters, text)))


_CONSTANTS = str.maketrans("iE", "Ie")  # the parser writes the imaginary unit as I, and Euler's number as e
_CAPITAL = "_{9999}"  # the parser converts letters to lower case, so capital letters get this index
_CONSTANT = re.compile(r"(I)_\{9999\}")


def _letters(found: re.Match[str]) -> str:
    """Write adjacent letters as a product, because the parser reads `dx` as a differential."""
    word = found[0]
    if word.startswith("\\"):
        return word
    index = "" if found.string[found.end() : found.end() + 1] == "_" else _CAPITAL
    letters = "".join(f"{a}{index}*" if a.isupper() else f"{a}*" for a in word.translate(_CONSTANTS))
    return _CONSTANT.sub(r"\1", letters)[:-1]


@lru_cache(maxsize=64)
def read_expression(text: str) -> sympy.Expr:
    """Parse a normalised text as a formula. The formula is not evaluated.

    Raises:
        UnsafeExpression: the formula must not be evaluated.
        ValueError: the text is not a formula.
    """
    if number := read_number(text):
        return sympy.Rational(number.value.numerator, number.value.denominator)
    rewritten = _rewritten(text)
    check_text(rewritten)
    found = parse(
        f"${rewritten}$",
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
    """Return whether two normalised texts are formulas of equal value.

    Raises:
        ValueError: a text is not a formula, or the formula must not be evaluated. Other errors are possible if sympy
            cannot compute a value.
    """
    a, b = read_expression(gold), read_expression(answer)
    if a == b:  # the only comparison for infinity, which has no numerical value
        return True
    if a.free_symbols != b.free_symbols:
        return False
    decimal, tolerance = "." in gold or "." in answer, _tolerance(a, b)
    agreed = 0
    for first, second in _values(a, b):
        if _values_equal(first, second, tolerance, decimal):
            agreed += 1
        elif first.is_real or a.has(sympy.I):
            return False
        # Otherwise, the values differ and are not real: the point is outside the domain of the formulas. Such points do
        # not count, because a root of a negative number may have different signs in the two formulas.
    return agreed >= (ENOUGH if a.free_symbols else 1)


def same_relation(gold: tuple[str, str], answer: tuple[str, str], ordered: bool) -> bool:
    """Return whether two relations are equivalent. `ordered`: true for inequalities, false for equations.

    Each relation is a pair of its sides. The relations are equivalent if the differences of their sides are equal up to
    a constant factor. For inequalities, the factor must be positive.
    """
    a, b = (read_expression(f"({left})-({right})") for left, right in (gold, answer))
    tolerance = _tolerance(a, b)
    pairs = [pair for pair in _values(a, b) if not any(_is_zero(value, tolerance) for value in pair)]
    factors = [first / second for first, second in pairs]
    if len(factors) < ENOUGH or not all(_values_equal(factors[0], factor, tolerance, False) for factor in factors):
        return False
    return not ordered or bool(sympy.re(factors[0]) > 0)


def _values(a: sympy.Expr, b: sympy.Expr) -> Iterator[tuple[sympy.Expr, sympy.Expr]]:
    """Yield the values of both formulas at each point. Skip points at which one of the values is not a number."""
    symbols, digits = a.free_symbols, _digits(a, b)
    for number, (low, high) in enumerate(POINTS if symbols else POINTS[:1]):
        point = {symbol: _pseudo_random(f"{symbol}/{number}", low, high) for symbol in symbols}
        pair = _value(a, point, digits), _value(b, point, digits)
        if all(part.is_Float or part.is_Integer for value in pair for part in value.as_real_imag()):
            yield pair


def _value(node: sympy.Expr, point: dict[sympy.Basic, sympy.Rational], digits: int) -> sympy.Expr:
    """Return the value of a formula at a point. The value of an undefined function, such as f, is pseudo-random and
    depends only on the function and its arguments.
    """
    unknown = sorted(node.atoms(AppliedUndef), key=lambda call: len(list(sympy.preorder_traversal(call))))
    values: dict[sympy.Basic, sympy.Expr] = {}
    for call in unknown:
        arguments = [argument.xreplace(values).evalf(DIGITS, subs=point) for argument in call.args]
        seed = "/".join([str(call.func), *(str(sympy.N(argument, DIGITS // 2)) for argument in arguments)])
        values[call] = _pseudo_random(seed, 1, 3)
    result: sympy.Expr = node.xreplace(values).evalf(digits, subs=point)
    return result


def _pseudo_random(seed: str, low: int, high: int) -> sympy.Rational:
    """Return a pseudo-random number between `low` and `high`, determined by the seed."""
    drawn = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=4).digest(), "big")
    return sympy.Rational(low * 10**6 + drawn % ((high - low) * 10**6) + 1, 10**6 + 3)


def _digits(a: sympy.Expr, b: sympy.Expr) -> int:
    """Return the number of digits to compute.

    This number grows with the numbers in the formulas, so 2^{1000} and 2^{1000}+1 differ. If a formula has a factorial
    of a non-integer, only `DIGITS` digits are computed, because these factorials are slow.
    """
    if any(not part.args[0].is_Integer for node in (a, b) for part in node.atoms(*_GAMMAS)):
        return DIGITS
    return DIGITS + int(max(size(a), size(b)) * log10(2))


def _tolerance(a: sympy.Expr, b: sympy.Expr) -> sympy.Rational:
    """Return the maximum relative difference of two computed values that count as equal."""
    return sympy.Rational(1, 10 ** (_digits(a, b) - SPARE))


def _is_zero(value: sympy.Expr, tolerance: sympy.Rational) -> bool:
    """Return whether a computed value is zero, or a rounding error without significant digits."""
    return bool(value == 0 or (value.is_Float and value._prec <= 4 and abs(value) < tolerance))


def _values_equal(a: sympy.Expr, b: sympy.Expr, tolerance: sympy.Rational, decimal: bool) -> bool:
    """Return whether two computed values are equal. `decimal`: whether one of the formulas has a decimal point. If so,
    the values may differ by a rounding error.
    """
    if _is_zero(a, tolerance) or _is_zero(b, tolerance):
        return bool(abs(a - b) < tolerance)
    if abs(a - b) <= tolerance * max(abs(a), abs(b)):
        return True
    if not (decimal and a.is_real and b.is_real):
        return False
    return approximates(Fraction(str(a)), Fraction(str(b)))
