r"""How an answer is built of parts: lists, tuples, intervals, sets, unions, matrices, chains of relations."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from arlarena.env_server.tir_math.latex import closing

MAX_SIGNS = 3  # of \pm in one formula, each of which doubles it
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?%?")
_MATRIX = re.compile(
    r"(?P<factor>[^(\[]*?)\*?[(\[]?\\begin\{(?P<kind>[pbB]?matrix|array)\}(?:\{[lcr|]*\})?(?P<rows>.*)\\end\{(?P=kind)\}[)\]]?"
)
_RELATION = re.compile(r"\\(?:le|ge|ne|approx|equiv)(?![A-Za-z])|[<>=]")
_MIRRORED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}
_BUILDER = re.compile(r"\\\{(?:[A-Za-z]|\\[a-z]+)(?:\\in\\mathbb\{R\})?[|:](?P<condition>.+)\\\}")
_MEMBER = re.compile(r"[A-Za-z](?:_\{\w+\})?\s*\\in(?![A-Za-z])\s*(?P<set>.+)")


@dataclass(frozen=True, slots=True)
class Bracketed:
    r"""What stands in one pair of brackets: `(1,2]` has left "(", right "]". A set's are "\{" and "\}"."""

    left: str
    items: tuple[str, ...]
    right: str

    @property
    def is_set(self) -> bool:
        """Whether the order does not matter."""
        return self.left == "\\{"

    @property
    def matched(self) -> bool:
        """Whether it closes as it opens."""
        return self.is_set or (self.left, self.right) in (("(", ")"), ("[", "]"))

    @property
    def is_interval(self) -> bool:
        """Whether it can only be one."""
        return len(self.items) == 2 and not self.is_set and (self.left, self.right) != ("(", ")")


@dataclass(frozen=True, slots=True)
class Relation:
    r"""`a < b \le c`: its parts, and the signs between them. All inequalities point to the right."""

    parts: tuple[str, ...]
    signs: tuple[str, ...]

    @property
    def is_equation(self) -> bool:
        """Whether it says that its parts are the same, or about so."""
        return set(self.signs) <= {"=", "\\approx", "\\equiv"}


def split(text: str, separators: str) -> list[str]:
    """The parts of a text between separators that are in no bracket, without empty ones."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in separators:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part for part in parts if part]


def read_list(text: str, thousands: bool = True) -> list[str]:
    r"""The values that a text lists, `\pm` said as two. `thousands`: whether `15,600` is one."""
    if thousands and _THOUSANDS.fullmatch(text):
        return [text]
    return [value for part in split(text, ",;") for value in _with_signs(part)]


def _with_signs(text: str) -> list[str]:
    r"""`1\pm x` as `1+x` and `1-x`."""
    signs = re.findall(r"\\(?:pm|mp)(?![A-Za-z])", text)
    if not signs or len(signs) > MAX_SIGNS:
        return [text]
    pieces = re.split(r"\\(?:pm|mp)(?![A-Za-z])\s*", text)
    found = []
    for choice in itertools.product("+-", repeat=len(signs)):
        made = pieces[0] + "".join(sign + piece for sign, piece in zip(choice, pieces[1:], strict=True))
        found.append(re.sub(r"(^|[=({,<>])\+", r"\1", made))
    return found


def read_brackets(text: str) -> Bracketed | None:
    """The text as one pair of brackets, or None."""
    escaped = text.startswith("\\{")
    if not (escaped or text[:1] in ("(", "[")) or closing(text, int(escaped)) != len(text) - 1:
        return None
    if escaped and not text.endswith("\\}"):
        return None
    left, right = (text[:2], text[-2:]) if escaped else (text[0], text[-1])
    return Bracketed(left, tuple(read_list(text[len(left) : -len(right)], thousands=False)), right)


def read_union(text: str) -> list[str]:
    """The parts of a union of sets."""
    return [part for part in re.split(r"\\cup(?![A-Za-z])\s*", text) if part]


def read_matrix(text: str) -> list[list[str]] | None:
    """The rows of a matrix, in LaTeX or as nested lists; a factor before it goes into its entries."""
    if found := _MATRIX.fullmatch(text):
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", found["rows"]) if row]
        entries = [split(row, "&") for row in rows]
        factor = found["factor"]
        return [[f"{factor}*({entry})" if factor else entry for entry in row] for row in entries]
    outer = read_brackets(text)
    if outer is None or outer.left != "[" or not all(item.startswith("[") for item in outer.items):
        return None
    inner = [read_brackets(item) for item in outer.items]
    return [list(row.items) for row in inner if row] if all(inner) else None


def read_relation(text: str) -> Relation | None:
    """The text as a chain of relations, or None."""
    depth, parts, signs, start, position = 0, [], [], 0, 0
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
    r"""`x\in S` and `\{x|x>3\}` as the set that they mean; other texts as they are."""
    if found := _BUILDER.fullmatch(text):
        return found["condition"]
    if found := _MEMBER.fullmatch(text):
        return found["set"]
    return text


def as_interval(relation: Relation) -> str | None:
    r"""An inequality of one letter as an interval: `1<x\le 2` as `(1,2]`, `x\ne 2` as a union; None for others."""
    parts, signs = relation.parts, relation.signs
    if signs == ("\\ne",):
        return f"(-\\infty,{parts[1]})\\cup({parts[1]},\\infty)"
    if set(signs) - {"<", "\\le"}:
        return None
    if len(parts) == 3:
        (low, middle, high), (left, right) = parts, signs
        if not (_is_letter(middle) or re.fullmatch(r"[A-Za-z]\([A-Za-z]\)", middle)):
            return None
        return f"{'(' if left == '<' else '['}{low},{high}{')' if right == '<' else ']'}"
    if len(parts) != 2:
        return None
    if _is_letter(parts[0]):
        return f"(-\\infty,{parts[1]}{')' if signs[0] == '<' else ']'}"
    return f"{'(' if signs[0] == '<' else '['}{parts[0]},\\infty)" if _is_letter(parts[1]) else None


def _is_letter(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z]|\\(?:theta|alpha|beta|phi|lambda|omega)", text))
