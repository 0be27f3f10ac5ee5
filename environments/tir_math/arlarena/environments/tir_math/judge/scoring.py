r"""What counts as right where a question asks for a form: a number worked out, prime factors, an expression.

    verdict("factors", r"2 \times 2 \times 3", r"2^2 \cdot 3")     # True
    verdict("number", "1024", "2^{10}")                           # False: the question is its own answer

The generators' own `score_answer` is not used: that of `countdown` evaluates the answer as Python (`sympy.parse_expr`),
others give parts of a reward to what is wrong, or none to what is right and written in LaTeX.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Literal, get_args

from arlarena.environments.tir_math.judge.arithmetic import NoArithmetic, evaluate
from arlarena.environments.tir_math.judge.equivalence import LIMIT, judge
from arlarena.environments.tir_math.judge.latex import Malformed, tidy
from arlarena.environments.tir_math.judge.numbers import read_number, same_number, value_of
from arlarena.environments.tir_math.judge.structures import read_shape, split
from arlarena.environments.tir_math.judge.units import without_units

logger = logging.getLogger(__name__)

Form = Literal["math", "number", "digits", "factors", "roots", "point", "radius", "angle", "expression"]

# Roots are asked for to 4 places, half of the last of which people round up and the question rounds down.
ROOTS = Fraction(101, 10**6)
# Points and radii to 3 places, and angles, which the generator itself rounds to 2.
PLACES, ANGLES = Fraction(501, 10**6), Fraction(501, 10**5)
MAX_POWER = 64  # of one prime factor
_NAME = re.compile(r"^(?:[A-Za-z](?:_\{\w+\})?|\\[a-z]+|\\text\{[^{}]*\})\s*(?:=|\\approx)\s*")
_DRESS = re.compile(r"\\(?:boxed|text|mathrm|mathtt|texttt|textbf|mathbf)|[${}\s`]|\\[,!;:() ]|_\d+$|_\{\d+\}\$?$")


def verdict(form: Form, gold: str, answer: str) -> bool:
    """Whether an answer in this form is right. Never raises."""
    if len(answer) > LIMIT:
        return False
    try:
        return _FORMS[form](gold, answer)
    except Exception:  # as in judging: the answer may be anything; a number of values that differs is a ValueError
        logger.debug("an answer that cannot be judged", exc_info=True)
        return False


def _value(text: str) -> Fraction:
    """The number that a text is, whatever it calls it."""
    return value_of(without_units(_NAME.sub("", tidy(text)))[0].replace("°", ""))


def _number(gold: str, answer: str) -> bool:
    """A number, worked out: neither a formula nor several numbers."""
    meant, said = read_number(tidy(gold)), read_number(without_units(_NAME.sub("", tidy(answer)))[0])
    return bool(meant and said and same_number(meant, said))


def _near(gold: str, answer: str, distance: Fraction) -> bool:
    return abs(_value(gold) - _value(answer)) <= distance


def _digits(gold: str, answer: str) -> bool:
    """Digits in some base, which may be named as in 0xff or ff_{16}."""
    return _bare_digits(gold) == _bare_digits(answer)


def _bare_digits(text: str) -> str:
    bare = _DRESS.sub("", re.sub(r"_\{?\d+\}?(?=[\s$})]*$)", "", text.strip().removesuffix("."))).lower()
    sign, digits = ("-", bare[1:]) if bare.startswith(("-", "\N{MINUS SIGN}")) else ("", bare)
    digits = re.sub(r"^0[xob](?=.)", "", digits).lstrip("0") or "0"
    return digits if digits == "0" else sign + digits


def _factors(gold: str, answer: str) -> bool:
    return _read_factors(gold) == _read_factors(answer)


def _read_factors(text: str) -> list[int]:
    """The factors of a product, powers written out, in order."""
    text = text.rpartition("=")[2] if text.count("=") == 1 else text
    factors: list[int] = []
    for part in split(tidy(re.sub(r"(?<=[\d\s}])[x\u00d7](?=[\d\s])", "*", text)), "*"):
        found = re.fullmatch(r"(\d{1,30})(?:\^\{(\d{1,3})\})?", part)
        if not found or int(found[2] or 1) > MAX_POWER:
            raise Malformed(part)
        factors += [int(found[1])] * int(found[2] or 1)
    return sorted(factors)


def _roots(gold: str, answer: str) -> bool:
    """Several decimals in any order."""
    said = sorted(_value(text) for text in read_shape(_NAME.sub("", tidy(answer))).items)
    meant = sorted(Fraction(text.strip()) for text in gold.split(","))
    return all(abs(one - other) <= ROOTS for one, other in zip(meant, said, strict=True))


def _point(gold: str, answer: str) -> bool:
    meant, said = read_shape(tidy(gold)), read_shape(_NAME.sub("", tidy(answer)))
    return said.kind == "tuple" and all(
        _near(one, other, PLACES) for one, other in zip(meant.items, said.items, strict=True)
    )


def _expression(gold: str, answer: str) -> bool:
    """An expression of the same numbers with the same value."""
    meant, numbers = evaluate(gold)
    text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", tidy(answer))
    try:
        value, used = evaluate(text)
    except NoArithmetic:
        return False
    return value == meant and sorted(used) == sorted(numbers)


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
FORMS: tuple[Form, ...] = get_args(Form)
