"""Numbers that are written out: integers, decimals, fractions, mixed numbers, scientific notation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_EXPONENT = 400  # of ten; doubles end at 308
# What floating-point arithmetic leaves of a number: 1e-9 of it, printed with no fewer than 14 digits.
NOISE, NOISY_DIGITS = Fraction(1, 10**9), 14
# A decimal stands for a number without a finite one if it is right to 6 places (as in math-verify), which are 6 digits.
PLACES, DIGITS = Fraction(5, 10**7), Fraction(2, 10**6)

_DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\d+\.?|\.\d+"
_PLAIN = re.compile(rf"({_DIGITS})(?:[eE]([-+]?\d+))?")
_QUOTIENT = re.compile(rf"\\frac\{{(-?)({_DIGITS})\}}\{{(-?)({_DIGITS})\}}|({_DIGITS})/(-?)({_DIGITS})")
_MIXED = re.compile(r"(\d+) ?(?:\\frac\{(\d+)\}\{(\d+)\}|(?<= )(\d+)/(\d+))")
_PERIODIC = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\{(\d+)\}")
_SIGN = re.compile(r"[-+]*")


@dataclass(frozen=True, slots=True)
class Number:
    """A number and how it was written.

    Attributes:
        value: what it is, exactly.
        digits: how many, if it is written with a decimal point; 0 for an integer or a fraction.
    """

    value: Fraction
    digits: int = 0

    @property
    def finite(self) -> bool:
        """Whether it can be written as a decimal."""
        rest = self.value.denominator
        return pow(10, rest.bit_length(), rest) == 0


def read_number(text: str) -> Number | None:
    r"""The number that a tidy text is, or None.

    >>> read_number(r"-3\frac{1}{2}")
    Number(value=Fraction(-7, 2), digits=0)
    """
    while text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    sign = _SIGN.match(text)
    minus = sign[0].count("-") % 2 if sign else 0
    try:
        number = _unsigned(text[sign.end() if sign else 0 :])
    except ZeroDivisionError:
        return None
    return Number(-number.value, number.digits) if number and minus else number


def value_of(text: str) -> Fraction:
    """The value of a tidy text.

    Raises:
        ValueError: it is no number.
    """
    if number := read_number(text):
        return number.value
    raise ValueError(f"no number: {text}")


def _unsigned(text: str) -> Number | None:
    if found := _PLAIN.fullmatch(text):
        return _scaled(found[1], found[2] or "0")
    if found := _MIXED.fullmatch(text):
        whole, top, bottom = found[1], found[2] or found[4], found[3] or found[5]
        return Number(int(whole) + Fraction(int(top), int(bottom)))
    if found := _PERIODIC.fullmatch(text):
        whole, start, period = found[1] or "0", found[2], found[3]
        value = int(whole + start) + Fraction(int(period), 10 ** len(period) - 1)
        return Number(value / 10 ** len(start))
    if found := _QUOTIENT.fullmatch(text):
        top, bottom = _decimal(found[2] or found[5]), _decimal(found[4] or found[7])
        minus = [found[1], found[3], found[6]].count("-") % 2
        return Number((-1 if minus else 1) * top / bottom)
    return None


def _scaled(text: str, exponent: str) -> Number | None:
    if len(exponent) > 5 or abs(int(exponent)) > MAX_EXPONENT:
        return None
    digits = len(re.sub(r"^[0.,]+|[.,]", "", text)) if "." in text else 0
    return Number(_decimal(text) * Fraction(10) ** int(exponent), digits)


def _decimal(text: str) -> Fraction:
    whole, _, part = text.replace(",", "").partition(".")
    return Fraction(int((whole + part) or "0"), 10 ** len(part))


def same_number(one: Number, other: Number) -> bool:
    """Whether two numbers are the same, or one is a decimal that stands for the other."""
    if one.value == other.value:
        return True
    if not (one.digits or other.digits):
        return False
    if one.finite and other.finite:
        return max(one.digits, other.digits) >= NOISY_DIGITS and _near(one.value, other.value, NOISE)
    return stands_for(one.value, other.value)


def stands_for(one: Fraction, other: Fraction) -> bool:
    """Whether a decimal is near enough to a number that has no finite one."""
    distance = abs(one - other)
    return (distance <= PLACES and _near(one, other, DIGITS)) or _near(one, other, NOISE / 1000)


def _near(one: Fraction, other: Fraction, share: Fraction) -> bool:
    return abs(one - other) <= share * max(abs(one), abs(other))
