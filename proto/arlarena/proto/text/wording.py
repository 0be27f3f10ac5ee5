"""Numbers in messages, and texts of others that are printed."""

from __future__ import annotations

import re

# What a terminal acts on or what changes the order or the look of a line: C0 (but for the tab and the line's end),
# DEL and C1 (0x9b begins an escape sequence), line and paragraph separators, controls of direction and of invisible
# text (tags, variation selectors of plane 14), and halves of surrogate pairs, which cannot be encoded.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 step`, `2 steps`, `1,000 steps`. `plural`: of a noun whose plural is not formed by an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    r"""`text` for a terminal: control characters, of direction too, are written as `\x1b` or `\u202e`."""
    return _UNPRINTABLE.sub(_escape, text)


def json_escaped(text: str) -> str:
    """A JSON text in which characters that a terminal acts on are escaped; it stands for the same value."""
    return _UNPRINTABLE.sub(_json_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
