"""Compares single quantities: numbers, ratios and formulas, with units, degrees, percent signs or number bases."""

from __future__ import annotations

import re
from fractions import Fraction
from math import gcd

from arlarena.environments.tir_math.judge.expressions import same_expression
from arlarena.environments.tir_math.judge.latex import unwrap_text
from arlarena.environments.tir_math.judge.numbers import Number, read_number, same_number, value_of
from arlarena.environments.tir_math.judge.structures import split
from arlarena.environments.tir_math.judge.units import RADIANS, without_units

_BASE = re.compile(r"(?P<sign>-?)\(?(?:\\text\{)?(?P<digits>[0-9A-Za-z.]+)\}?\)?_\{(?:\\text\{)?(?P<base>\w+)\}?\}")
_DIGITS = re.compile(r"-?\(?(?:\\text\{)?[0-9A-Z.]+\}?\)?")
_SINE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_TIME = re.compile(r"\d{1,2}(?::\d{2}){1,2}")


def same_quantity(gold: str, answer: str) -> bool:
    """Return whether two numbers, ratios or formulas are equal, and their units do not contradict each other."""
    expected, given = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if expected or (given and _DIGITS.fullmatch(gold)):
        # The digits must be equal. If both texts name a base, the bases must be equal too.
        digits = [_digits(text, found) for text, found in ((gold, expected), (answer, given))]
        return digits[0] == digits[1] and not (expected and given and expected["base"] != given["base"])
    (gold, unit), (answer, other) = without_units(gold), without_units(answer)
    if (unit and other and unit != other) or ("°" in gold + answer and RADIANS in (unit, other)):
        return False
    if ":" in gold + answer:
        return _same_ratio(gold, answer)
    gold, answer = (text if _SINE.search(text) else text.replace("°", "") for text in (gold, answer))
    gold_percent, answer_percent = gold.endswith("%"), answer.endswith("%")
    gold_number, answer_number = read_number(gold.removesuffix("%")), read_number(answer.removesuffix("%"))
    if gold_number and answer_number:
        return _same_percentage(gold_number, gold_percent, answer_number, answer_percent)
    both_percent = gold_percent and answer_percent
    return same_expression(gold[:-1], answer[:-1]) if both_percent else same_expression(gold, answer)


def _digits(text: str, found: re.Match[str] | None) -> str:
    text = found["sign"] + found["digits"] if found else unwrap_text(text).strip("()")
    return text.replace(",", "").lower()


def _same_ratio(gold: str, answer: str) -> bool:
    """Return whether two ratios are equal as fractions.

    A gold answer such as 2:30, which is not in lowest terms, is a time of day. The parts of a time must be equal one by
    one.
    """
    expected, given = ([value_of(part) for part in split(text, ":")] for text in (gold, answer))
    if expected == given:
        return True
    if max(len(expected), len(given)) > 2 or (_TIME.fullmatch(gold) and gcd(*map(int, gold.split(":"))) > 1):
        return False
    ratios = [side[0] / side[1] if len(side) == 2 else side[0] for side in (expected, given)]
    return ratios[0] == ratios[1]


def _same_percentage(gold: Number, gold_percent: bool, answer: Number, answer_percent: bool) -> bool:
    """Return whether two numbers are equal. `gold_percent`, `answer_percent`: whether the gold number and the answer
    have a percent sign. One of the two signs may be missing.
    """
    if (gold_percent or not answer_percent or gold.value >= 1) and same_number(gold, answer):
        return True
    hundredth = Fraction(1, 100)
    gold = Number(gold.value * hundredth, gold.digits) if gold_percent else gold
    answer = Number(answer.value * hundredth, answer.digits) if answer_percent else answer
    return gold_percent != answer_percent and same_number(gold, answer)
