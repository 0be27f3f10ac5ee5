"""Parses numbers: integers, decimals, fractions, mixed numbers, scientific notation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_EXPONENT = 400  # maximum exponent of ten; the largest exponent of a double is 308
# A number that is printed with at least 14 digits may have a rounding error. Its relative error may be up to 1e-9.
NOISE, NOISY_DIGITS = Fraction(1, 10**9), 14
# A decimal may approximate a number without a finite decimal form, such as 1/3. The decimal must be right to 6 decimal
# places (as in math-verify) and to 6 significant digits.
PLACES, DIGITS = Fraction(5, 10**7), Fraction(2, 10**6)

_DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\d+\.?|\.\d+"
_PLAIN = re.compile(rf"({_DIGITS})(?:[eE]([-+]?\d+))?")
_QUOTIENT = re.compile(rf"\\frac\{{(-?)({_DIGITS})\}}\{{(-?)({_DIGITS})\}}|({_DIGITS})/(-?)({_DIGITS})")
_MIXED = re.compile(r"(\d+) ?(?:\\frac\{(\d+)\}\{(\d+)\}|(?<= )(\d+)/(\d+))")
_PERIODIC = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\{(\d+)\}")
_SIGN = re.compile(r"[-+]*")


@dataclass(frozen=True, slots=True)
class Number:
    """A number, and how precisely it was written.

    Attributes:
        value: the exact value.
        digits: the number of significant digits, if the number was written with a decimal point; else 0.
    """

    value: Fraction
    digits: int = 0

    @property
    def has_finite_decimal(self) -> bool:
        """Whether the value has a finite decimal form: true for 1/4, false for 1/3."""
        rest = self.value.denominator
        return pow(10, rest.bit_length(), rest) == 0


def read_number(text: str) -> Number | None:
    r"""Parse a normalised text as a number. Return None if the text is not a number.

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
    """Return the value of a normalised text.

    Raises:
        ValueError: the text is not a number.
    """
    if number := read_number(text):
        return number.value
    raise ValueError(f"not a number: {text}")


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


def same_number(first: Number, second: Number) -> bool:
    """Return whether two numbers are equal, or one number is a decimal that approximates the other number."""
    if first.value == second.value:
        return True
    if not (first.digits or second.digits):
        return False
    if first.has_finite_decimal and second.has_finite_decimal:
        return max(first.digits, second.digits) >= NOISY_DIGITS and _near(first.value, second.value, NOISE)
    return approximates(first.value, second.value)


def approximates(first: Fraction, second: Fraction) -> bool:
    """Return whether two numbers are so close that one may be a decimal approximation of the other."""
    distance = abs(first - second)
    return (distance <= PLACES and _near(first, second, DIGITS)) or _near(first, second, NOISE / 1000)


def _near(first: Fraction, second: Fraction, tolerance: Fraction) -> bool:
    return abs(first - second) <= tolerance * max(abs(first), abs(second))
