"""Wording of numbers in messages, and escaping of untrusted text."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Characters that could control a terminal, reorder a line or hide text:
# - C0 (except tab and newline), DEL and C1 (0x9b begins an escape sequence);
# - line and paragraph separators, direction controls;
# - invisible characters, such as the tags and variation selectors of plane 14;
# - lone surrogates, which cannot be encoded.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun: `1 step`, `2 steps`, `1,000 steps`."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def duration(seconds: float) -> str:
    """Returns a duration as text, such as `0.4 s`, `12 s`, `2 m 05 s` or `1 h 10 m`."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} m {rounded % 60:02} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02} m"


def percent(share: float | None) -> str:
    """Returns a share in [0, 1] in per cent, such as `51.2`, without the sign. Returns a dash if `share` is None."""
    return "-" if share is None else f"{100 * share:.1f}"


def interval(ci95: Sequence[float]) -> str:
    """Returns an interval in per cent, such as `47.0 to 55.4`. `ci95`: its lower and upper bound, in [0, 1]."""
    return f"{percent(ci95[0])} to {percent(ci95[1])}"


def printable(text: str) -> str:
    r"""Returns `text` with escape sequences such as `\x1b` or `\u202e` in place of control characters."""
    return _UNPRINTABLE.sub(_escape, text)


def json_escaped(text: str) -> str:
    """Returns the JSON `text` with escaped control characters. The value of the JSON does not change."""
    return _UNPRINTABLE.sub(_json_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
