r"""Judges an answer in the form that the question requires, such as a computed number, prime factors or an expression.

    verdict("factors", r"2 \times 2 \times 3", r"2^2 \cdot 3")     # True
    verdict("number", "1024", "2^{10}")                           # False: the number is not computed

The function `score_answer` of reasoning-gym's generators is not used. In `countdown`, it evaluates the answer as Python
(`sympy.parse_expr`). In other generators, it gives a partial reward to wrong answers, or no reward to right answers in
LaTeX.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

from arlarena.environments.tir_math.judge.arithmetic import NoArithmetic, evaluate
from arlarena.environments.tir_math.judge.equivalence import LIMIT, judge
from arlarena.environments.tir_math.judge.latex import Malformed, normalize
from arlarena.environments.tir_math.judge.numbers import read_number, same_number, value_of
from arlarena.environments.tir_math.judge.structures import read_structure, split
from arlarena.environments.tir_math.judge.units import without_units

logger = logging.getLogger(__name__)

Form = Literal["math", "number", "digits", "factors", "roots", "point", "radius", "angle", "expression"]

# Tolerances. Questions ask for roots with 4 decimal places. The last place may differ by 1, because of rounding.
ROOTS = Fraction(101, 10**6)
# Questions ask for points and radii with 3 decimal places. The generator rounds angles to 2 decimal places.
PLACES, ANGLES = Fraction(501, 10**6), Fraction(501, 10**5)
MAX_POWER = 64  # maximum power of a prime factor
_NAME = re.compile(r"^(?:[A-Za-z](?:_\{\w+\})?|\\[a-z]+|\\text\{[^{}]*\})\s*(?:=|\\approx)\s*")
_MARKUP = re.compile(r"\\(?:boxed|text|mathrm|mathtt|texttt|textbf|mathbf)|[${}\s`]|\\[,!;:() ]|_\d+$|_\{\d+\}\$?$")


def verdict(form: Form, gold: str, answer: str) -> bool:
    """Return whether the answer is right. `form`: the form of answer that the question requires. Never raises."""
    if len(answer) > LIMIT:
        return False
    try:
        return _FORMS[form](gold, answer)
    except Exception:  # the answer is untrusted; for example, a wrong number of values raises ValueError
        logger.debug("an answer could not be judged", exc_info=True)
        return False


def _value(text: str) -> Fraction:
    """Return the number in a text such as `x = 2 cm`. The name and the unit are ignored."""
    return value_of(without_units(_NAME.sub("", normalize(text)))[0].replace("°", ""))


def _number(gold: str, answer: str) -> bool:
    """Return whether the answer is the gold number. The answer must be one computed number, not a formula."""
    expected, given = read_number(normalize(gold)), read_number(without_units(_NAME.sub("", normalize(answer)))[0])
    return bool(expected and given and same_number(expected, given))


def _near(gold: str, answer: str, distance: Fraction) -> bool:
    return abs(_value(gold) - _value(answer)) <= distance


def _digits(gold: str, answer: str) -> bool:
    """Return whether two numbers have equal digits. The texts may name the number base, as in 0xff or ff_{16}."""
    return _bare_digits(gold) == _bare_digits(answer)


def _bare_digits(text: str) -> str:
    bare = _MARKUP.sub("", re.sub(r"_\{?\d+\}?(?=[\s$})]*$)", "", text.strip().removesuffix("."))).lower()
    sign, digits = ("-", bare[1:]) if bare.startswith(("-", "\N{MINUS SIGN}")) else ("", bare)
    digits = re.sub(r"^0[xob](?=.)", "", digits).lstrip("0") or "0"
    return digits if digits == "0" else sign + digits


def _factors(gold: str, answer: str) -> bool:
    return _read_factors(gold) == _read_factors(answer)


def _read_factors(text: str) -> list[int]:
    """Return the factors of a product in ascending order. The power 2^3 gives the factors 2, 2, 2."""
    text = text.rpartition("=")[2] if text.count("=") == 1 else text
    factors: list[int] = []
    for part in split(normalize(re.sub(r"(?<=[\d\s}])[x\u00d7](?=[\d\s])", "*", text)), "*"):
        found = re.fullmatch(r"(\d{1,30})(?:\^\{(\d{1,3})\})?", part)
        if not found or int(found[2] or 1) > MAX_POWER:
            raise Malformed(part)
        factors += [int(found[1])] * int(found[2] or 1)
    return sorted(factors)


def _roots(gold: str, answer: str) -> bool:
    """Return whether two lists of decimals are equal up to the tolerance, in any order."""
    given = sorted(_value(text) for text in read_structure(_NAME.sub("", normalize(answer))).items)
    expected = sorted(Fraction(text.strip()) for text in gold.split(","))
    return all(abs(a - b) <= ROOTS for a, b in zip(expected, given, strict=True))


def _point(gold: str, answer: str) -> bool:
    expected, given = read_structure(normalize(gold)), read_structure(_NAME.sub("", normalize(answer)))
    return given.kind == "tuple" and all(_near(a, b, PLACES) for a, b in zip(expected.items, given.items, strict=True))


def _expression(gold: str, answer: str) -> bool:
    """Return whether the answer is an expression with the same numbers and the same value as the gold expression."""
    expected, numbers = evaluate(gold)
    text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", normalize(answer))
    try:
        value, used = evaluate(text)
    except NoArithmetic:
        return False
    return value == expected and sorted(used) == sorted(numbers)


_FORMS: dict[Form, Callable[[str, str], bool]] = {
    "math": judge,
    "number": _number,
    "digits": _digits,
    "factors": _factors,
    "roots": _roots,
    "point": _point,
    "radius": lambda gold, answer: _near(gold, answer, PLACES),
    "angle": lambda gold, answer: _near(gold, answer, ANGLES),
    "expression": _expression,
}
