"""Validates arguments, and converts numpy scalars and zero-dimensional arrays to Python values.

Several sessions share a request, so the invalid value of one session would make the calls of all these sessions fail.
The functions of this module find invalid values before the client builds the request.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from arlarena.proto.env_api import LARGEST_INDEX


def _scalar(value: Any) -> Any:
    """Returns the Python value of a numpy scalar or a zero-dimensional array. Returns any other value unchanged."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def valid_text(name: str, value: Any) -> str:
    """Returns `value` as a `str`. Error messages begin with `name`.

    Raises:
        TypeError: `value` is not a string.
        ValueError: `value` contains a lone surrogate, which JSON cannot represent.
    """
    value = _scalar(value)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(value[error.start]):04X}"
        raise ValueError(f"{name} contains {code}, a lone surrogate, at position {error.start}") from error
    return str(value)


def valid_integer(name: str, value: Any, least: int = 0) -> int:
    """Returns `value` as an `int` from `least` to `LARGEST_INDEX`. Error messages begin with `name`.

    Raises:
        TypeError: `value` is not an integer.
        ValueError: `value` is out of range.
    """
    value = _scalar(value)
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {shown(value)}") from None
    if not least <= number <= LARGEST_INDEX:
        raise ValueError(f"{name} must be from {least} to {LARGEST_INDEX}")
    return number


def valid_seconds(name: str, value: Any, *, positive: bool = False) -> float:
    """Returns `value` (a number of seconds) as a `float`. Error messages begin with `name`.

    The value must be finite and at least 0. If `positive` is true, it must be above 0.

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is out of range.
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
    """Returns the text and the type of `value`, for error messages. The text has at most 80 characters."""
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:80] + '…'} ({type(value).__name__})"
