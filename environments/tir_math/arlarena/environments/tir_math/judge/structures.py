r"""Splits answers into parts. An answer may be a list, tuple, interval, set, union, matrix or chain of relations."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Literal

from arlarena.environments.tir_math.judge.latex import closing
from arlarena.environments.tir_math.judge.numbers import read_number

MAX_SIGNS = 3  # maximum number of \pm in a formula; each \pm doubles the number of values
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?!\d)[^,;]*")
_MATRIX = re.compile(
    r"(?P<factor>[^(\[]*?)\*?[(\[]?\\begin\{(?P<kind>[pbB]?matrix|array)\}(?:\{[lcr|]*\})?"
    r"(?P<rows>.*)\\end\{(?P=kind)\}[)\]]?"
)
_RELATION = re.compile(r"\\(?:le|ge|ne|approx|equiv)(?![A-Za-z])|[<>=]")
_MIRRORED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_BUILDER = re.compile(r"\\\{(?:[A-Za-z]|\\[a-z]+)(?:\\in\\mathbb\{R\})?[|:](?P<set>.+)\\\}")
_MEMBER = re.compile(r"[A-Za-z](?:_\{\w+\})?\s*\\in(?![A-Za-z])\s*(?P<set>.+)")
_REALS = re.compile(r"\\mathbb\{R\}(?:(?:\\setminus|\\backslash|-)\s*\\\{(?P<points>[^{}]*)\\\})?")
_LETTER = r"(?:[A-Za-z]|\\(?:theta|alpha|beta|phi|lambda|omega))"

Kind = Literal["value", "relation", "list", "tuple", "set", "interval", "union", "matrix"]


@dataclass(frozen=True, slots=True)
class Structure:
    r"""A text and its parts.

    Attributes:
        kind: the kind of text. (1,2] and [1,2) are an `interval`, but (1,2) and [1,2] are a `tuple`.
        items: the texts of the parts; for a matrix, the rows. If the text has no parts, `items` contains only the text.
        brackets: the surrounding brackets, such as "(]".
    """

    kind: Kind
    items: tuple[str, ...]
    brackets: str = ""


@dataclass(frozen=True, slots=True)
class Relation:
    r"""A chain of relations such as `a < b \le c`: the parts a, b, c and the signs between them.

    Inequalities with `>` and `\ge` are reversed, so the signs are `<` and `\le`.
    """

    parts: tuple[str, ...]
    signs: tuple[str, ...]

    @property
    def is_equation(self) -> bool:
        """Whether the relation is an equality, exact or approximate."""
        return set(self.signs) <= {"=", "\\approx", "\\equiv"}


def read_structure(text: str, thousands: bool = True) -> Structure:
    """Split a text into parts. `thousands`: whether `15,600` is one value. Brackets around one value are dropped."""
    if len(values := read_list(text, thousands)) != 1:
        return Structure("list", tuple(values))
    text = values[0]
    if found := _MATRIX.fullmatch(text):
        rows = [split(row, "&") for row in re.split(r"\\\\(?:\[[^\]]*\])?", found["rows"]) if row]
        if factor := found["factor"]:
            rows = [[f"{factor}({entry})" for entry in row] for row in rows]
        return Structure("matrix", tuple(f"[{','.join(row)}]" for row in rows))
    if read_relation(text):
        return Structure("relation", (text,))
    if len(sets := [part for part in re.split(r"\\cup(?![A-Za-z])\s*", text) if part]) != 1:
        return Structure("union", tuple(sets))
    return _read_brackets(sets[0])


def _read_brackets(text: str) -> Structure:
    escaped = text.startswith("\\{")
    bracketed = text.endswith("\\}") if escaped else text[:1] in ("(", "[")
    if not bracketed or closing(text, int(escaped)) != len(text) - 1:
        return Structure("value", (text,))
    inner, brackets = (text[2:-2], "{}") if escaped else (text[1:-1], text[0] + text[-1])
    items = tuple(read_list(inner, thousands=False))
    if len(items) == 1:
        return read_structure(items[0])
    kind: Kind = "set" if escaped else "tuple" if brackets in ("()", "[]") else "interval"
    return Structure(kind, items, brackets)


def split(text: str, separators: str) -> list[str]:
    """Split a text at the separators outside brackets. Empty parts are left out."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in separators:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part for part in parts if part]


def read_list(text: str, thousands: bool = True) -> list[str]:
    r"""Return the values of a list. `1\pm x` gives two values. `thousands`: whether `15,600` is one value."""
    if thousands and _THOUSANDS.fullmatch(text):
        return [text]
    return [value for part in split(text, ",;") for value in _expand_plus_minus(part)]


def _expand_plus_minus(text: str) -> list[str]:
    r"""Expand `1\pm x` to the values `1+x` and `1-x`."""
    first, *others = re.split(r"\\(?:pm|mp)(?![A-Za-z])\s*", text)
    if not others or len(others) > MAX_SIGNS:
        return [text]
    found = []
    for signs in itertools.product("+-", repeat=len(others)):
        made = first + "".join(sign + piece for sign, piece in zip(signs, others, strict=True))
        found.append(re.sub(r"(^|[=({,<>])\+", r"\1", made))
    return found


def read_relation(text: str) -> Relation | None:
    """Parse a text as a chain of relations. Signs inside brackets are ignored. Return None if there is no relation."""
    parts, signs, depth, start, position = [], [], 0, 0, 0
    while position < len(text):
        depth += (text[position] in "([{") - (text[position] in ")]}")
        found = _RELATION.match(text, position) if depth == 0 else None
        if found:
            parts.append(text[start:position].strip())
            signs.append(found[0])
            start = position = found.end()
        else:
            position += 1
    parts.append(text[start:].strip())
    if not signs or not all(parts):
        return None
    if any(sign in (">", "\\ge") for sign in signs):
        parts, signs = parts[::-1], [_MIRRORED.get(sign, sign) for sign in reversed(signs)]
    return Relation(tuple(parts), tuple(signs))


def as_set(text: str) -> str:
    r"""Rewrite set notation: `x\in S` becomes `S`, and `\{x|x>3\}` becomes `x>3`. The set of real numbers, possibly
    without some points, becomes intervals. Other texts do not change.
    """
    if found := _BUILDER.fullmatch(text) or _MEMBER.fullmatch(text):
        text = found["set"]
    if not (found := _REALS.fullmatch(text)):
        return text
    points = [(number.value, point) for point in split(found["points"] or "", ",") if (number := read_number(point))]
    ends = ["-\\infty", *(point for _, point in sorted(points)), "\\infty"]
    return "\\cup ".join(f"({low},{high})" for low, high in itertools.pairwise(ends))


def as_interval(relation: Relation) -> str | None:
    r"""Convert an inequality of one letter to an interval or a union: `1<x\le 2` becomes `(1,2]`. Return None for other
    relations.
    """
    parts, signs = relation.parts, relation.signs
    if signs == ("\\ne",):
        return f"(-\\infty,{parts[1]})\\cup({parts[1]},\\infty)"
    if set(signs) - {"<", "\\le"} or len(parts) > 3:
        return None
    if len(parts) == 2:  # one end of the interval is infinite
        first = re.fullmatch(_LETTER, parts[0])
        parts, signs = (("-\\infty", *parts), ("<", *signs)) if first else ((*parts, "\\infty"), (*signs, "<"))
    if not re.fullmatch(rf"{_LETTER}|[A-Za-z]\([A-Za-z]\)", parts[1]):
        return None
    return f"{'(' if signs[0] == '<' else '['}{parts[0]},{parts[2]}{')' if signs[1] == '<' else ']'}"
