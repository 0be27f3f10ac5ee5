"""Numbers in messages."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 step`, `2 steps`, `1,000 steps`. `plural`: of a noun whose plural is not formed by an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
