"""What callers pass, as what is sent: numpy's scalars and arrays of no dimension become Python's own values.

Calls of many sessions share requests, so a value that cannot be sent has to be refused before it is among them.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from arlarena.proto.env_api import LARGEST_INDEX


def _scalar(value: Any) -> Any:
    """The value in one of numpy's scalars or arrays of no dimension; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def text_of(name: str, value: Any) -> str:
    """`value` as a `str`. Error messages begin with `name`.

    Raises:
        TypeError: it is none.
        ValueError: it holds half a surrogate pair, which no JSON can carry.
    """
    value = _scalar(value)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text (str), not {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(value[error.start]):04X}"
        raise ValueError(f"{name} holds {code}, half a surrogate pair, at position {error.start}") from error
    return str(value)


def number_of(name: str, value: Any, least: int = 0) -> int:
    """`value` as an `int` from `least` to `LARGEST_INDEX`. Error messages begin with `name`.

    Raises:
        TypeError: it is none.
        ValueError: it is out of range.
    """
    value = _scalar(value)
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {shown(value)}") from None
    if not least <= number <= LARGEST_INDEX:
        raise ValueError(f"{name} must be from {least} to {LARGEST_INDEX}")
    return number


def seconds_of(name: str, value: Any, *, positive: bool = False) -> float:
    """`value` as a finite number of seconds, 0 or more, or above 0 if `positive`. Error messages begin with `name`.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    value = _scalar(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {shown(value)}")
    if not (math.isfinite(value) and (value > 0 if positive else value >= 0)):
        raise ValueError(
            f"{name} must be a finite number of seconds, {'above 0' if positive else '0 or more'}, not {value}"
        )
    return float(value)


def shown(value: Any) -> str:
    """A value and its type, for an error."""
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:80] + '…'} ({type(value).__name__})"
