"""Single quantities: numbers and formulas with what stands around them, units, degrees, percent, a base, a colon."""

from __future__ import annotations

import re
from fractions import Fraction
from math import gcd

from arlarena.environments.tir_math.judge.expressions import same_expression
from arlarena.environments.tir_math.judge.latex import unwrapped
from arlarena.environments.tir_math.judge.numbers import Number, read_number, same_number, value_of
from arlarena.environments.tir_math.judge.structures import split
from arlarena.environments.tir_math.judge.units import RADIANS, without_units

_BASE = re.compile(r"(?P<sign>-?)\(?(?:\\text\{)?(?P<digits>[0-9A-Za-z.]+)\}?\)?_\{(?:\\text\{)?(?P<base>\w+)\}?\}")
_DIGITS = re.compile(r"-?\(?(?:\\text\{)?[0-9A-Z.]+\}?\)?")
_SINE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_TIME = re.compile(r"\d{1,2}(?::\d{2}){1,2}")


def same_quantity(gold: str, answer: str) -> bool:
    """One number, ratio or formula each, with what stands behind it."""
    meant, said = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if meant or (said and _DIGITS.fullmatch(gold)):  # the digits have to be the same, and the base, if both name it
        digits = [_digits(text, found) for text, found in ((gold, meant), (answer, said))]
        return digits[0] == digits[1] and not (meant and said and meant["base"] != said["base"])
    (gold, unit), (answer, other) = without_units(gold), without_units(answer)
    if (unit and other and unit != other) or ("°" in gold + answer and RADIANS in (unit, other)):
        return False
    if ":" in gold + answer:
        return _same_ratio(gold, answer)
    gold, answer = (text if _SINE.search(text) else text.replace("°", "") for text in (gold, answer))
    share, part = gold.endswith("%"), answer.endswith("%")
    one, two = read_number(gold.removesuffix("%")), read_number(answer.removesuffix("%"))
    if one and two:
        return _same_share(one, share, two, part)
    return same_expression(gold[:-1], answer[:-1]) if share and part else same_expression(gold, answer)


def _digits(text: str, found: re.Match[str] | None) -> str:
    text = found["sign"] + found["digits"] if found else unwrapped(text).strip("()")
    return text.replace(",", "").lower()


def _same_ratio(gold: str, answer: str) -> bool:
    """Ratios, which are fractions, and times, which are not: a ratio would be in lowest terms."""
    meant, said = ([value_of(part) for part in split(text, ":")] for text in (gold, answer))
    if meant == said:
        return True
    if max(len(meant), len(said)) > 2 or (_TIME.fullmatch(gold) and gcd(*map(int, gold.split(":"))) > 1):
        return False
    ratios = [side[0] / side[1] if len(side) == 2 else side[0] for side in (meant, said)]
    return ratios[0] == ratios[1]


def _same_share(one: Number, share: bool, two: Number, part: bool) -> bool:
    """Two numbers of which some are percentages. The sign may be left out of 25%, and said of a 25 that is one."""
    if (share or not part or one.value >= 1) and same_number(one, two):
        return True
    hundredth = Fraction(1, 100)
    first = Number(one.value * hundredth, one.digits) if share else one
    second = Number(two.value * hundredth, two.digits) if part else two
    return share != part and same_number(first, second)
