"""Single quantities: numbers and formulas with what stands around them, units, degrees, percent, a base, a colon."""

from __future__ import annotations

import re
from fractions import Fraction
from math import gcd

from arlarena.env_server.tir_math.expressions import same_expression
from arlarena.env_server.tir_math.latex import squashed, unwrapped
from arlarena.env_server.tir_math.numbers import Number, read_number, same_number
from arlarena.env_server.tir_math.shapes import split
from arlarena.env_server.tir_math.units import RADIANS, contradict, without_units

_BASE = re.compile(r"(?P<sign>-?)\(?(?:\\text\{)?(?P<digits>[0-9A-Za-z.]+)\}?\)?_\{(?:\\text\{)?(?P<base>\w+)\}?\}")
_DIGITS = re.compile(r"-?\(?(?:\\text\{)?[0-9A-Z.]+\}?\)?")
_SINE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_TIME = re.compile(r"\d{1,2}(?::\d{2}){1,2}")


def same_in_base(gold: str, answer: str) -> bool | None:
    """Numbers in another base: the digits have to be the same, and the base, where both name it. None for others."""
    meant, said = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if not meant and not (said and _DIGITS.fullmatch(gold)):
        return None
    digits = [_digits(text, found) for text, found in ((gold, meant), (answer, said))]
    return digits[0] == digits[1] and not (meant and said and meant["base"] != said["base"])


def _digits(text: str, found: re.Match[str] | None) -> str:
    text = found["sign"] + found["digits"] if found else unwrapped(text).strip("()")
    return text.replace(",", "").lower()


def same_ratio(gold: str, answer: str) -> bool | None:
    """Ratios, which are fractions, and times, which are not: a ratio would be in lowest terms. None for others."""
    (meant, unit), (said, other) = without_units(gold), without_units(answer)
    if ":" not in meant and ":" not in said:
        return None
    if contradict(unit, other):
        return False
    parts = [[read_number(part) for part in split(text, ":")] for text in (meant, said)]
    numbers = [[part.value for part in side if part] for side in parts]
    if [len(side) for side in numbers] != [len(side) for side in parts] or not all(parts):
        return False
    if numbers[0] == numbers[1]:
        return True
    if max(map(len, numbers)) > 2 or (_TIME.fullmatch(meant) and gcd(*map(int, meant.split(":"))) > 1):
        return False
    ratios = [side[0] / side[1] if len(side) == 2 and side[1] else side[0] for side in numbers]
    return ratios[0] == ratios[1]


def same_quantity(gold: str, answer: str) -> bool:
    """One number or formula each, with what stands behind it."""
    (meant, unit), (said, other) = without_units(gold), without_units(answer)
    if contradict(unit, other) or ("°" in meant + said and RADIANS in (unit, other)):
        return False
    meant, said = _without_degrees(meant, said)
    if squashed(meant) == squashed(said):
        return True
    share, part = meant.endswith("%"), said.endswith("%")
    one, two = read_number(meant.removesuffix("%")), read_number(said.removesuffix("%"))
    if one and two:
        return _same_share(one, share, two, part)
    if share and part:
        meant, said = meant[:-1], said[:-1]
    return same_expression(meant, said)


def _without_degrees(gold: str, answer: str) -> tuple[str, str]:
    """Degree signs dropped, but inside of sines and the like, where only both sides together may lack them."""
    angles = [bool(_SINE.search(text)) for text in (gold, answer)]
    if all(angles) and ("°" in gold) != ("°" in answer):
        angles = [False, False]
    return (gold if angles[0] else gold.replace("°", "")), (answer if angles[1] else answer.replace("°", ""))


def _same_share(one: Number, share: bool, two: Number, part: bool) -> bool:
    """Two numbers of which some are percentages. The sign may be left out of 25%, and said of a 25 that is one."""
    if share == part or (share and same_number(one, two)) or (part and one.value >= 1 and same_number(one, two)):
        return same_number(one, two)
    hundredth = Fraction(1, 100)
    first = Number(one.value * hundredth, one.digits) if share else one
    second = Number(two.value * hundredth, two.digits) if part else two
    return same_number(first, second)
