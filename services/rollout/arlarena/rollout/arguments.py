"""Parsers of numbers on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def int_at_least(minimum: int) -> Callable[[str], int]:
    """Returns a function that parses an integer. The function refuses integers below `minimum`."""

    def parse(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is too small: must be at least {minimum}")
        return value

    parse.__name__ = "integer"  # if the text is no integer, argparse's error uses this name: "invalid integer value"
    return parse


def fraction(text: str) -> float:
    """Parse a number in [0, 1)."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{value:g} is out of range: must be at least 0 and less than 1")
    return value
