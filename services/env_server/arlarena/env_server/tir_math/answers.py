r"""What a reply says: a program to run, or an answer in \boxed{…}.

    reply = read_reply("Let me compute it.\n```python\nprint(2**10)\n```")
    reply.code      # "print(2**10)\n"
    reply.answer    # None

Everything here takes time linear in the text, whatever a model writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

THINK, THOUGHT = "<think>", "</think>"
PYTHON = frozenset({"", "py", "python", "python3"})
# A box and its brace, any other escape (so that \{ opens nothing), or a brace. A box without a brace holds what TeX
# users mean by "\boxed 5": the next word, if it begins like a number or a command.
_TOKEN = re.compile(
    r"\\(?:boxed|fbox)(?![A-Za-z])\s*"
    r"(?:(?P<open>\{)|(?P<bare>[-+]?[0-9.][^\s${}]*|[-+]?\\[A-Za-z]+(?:\{[^{}]*\})*))?"
    r"|\\.|[{}]",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its first word after the fence, its content, and where it begins and ends in the text."""

    language: str
    content: str
    start: int
    end: int
    closed: bool

    @property
    def is_code(self) -> bool:
        """Whether it is a program: Python, or no language named, and not empty."""
        return self.language in PYTHON and bool(self.content.strip())


@dataclass(frozen=True, slots=True)
class Reply:
    r"""A reply that was read.

    Attributes:
        code: content of the first block of Python.
        closed: whether its fence was; True where there is no block.
        answer: the last \boxed before that block, or anywhere where there is none.
        void: neither code nor answer.
        format_valid: either a program, in one closed block that ends the reply, or an answer, and not both.
    """

    code: str | None
    closed: bool
    answer: str | None
    void: bool
    format_valid: bool


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{…} or \fbox{…} that is closed and not empty, braces in it balanced.

    >>> boxed(r"so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    last, found = -1, ""
    braces: list[tuple[int, int] | None] = []  # of each open brace: where its box and its content begin
    for token in _TOKEN.finditer(text):
        if token["open"]:
            braces.append((token.start(), token.end()))
        elif token["bare"] and token.start() > last:
            last, found = token.start(), token["bare"].rstrip(".,;:")
        elif token[0] == "{":
            braces.append(None)
        elif token[0] == "}" and braces:
            box = braces.pop()
            if box and box[0] > last and not text[box[1] : token.start()].isspace() and box[1] < token.start():
                last, found = box[0], text[box[1] : token.start()]
    return found.strip() or None


def fenced(text: str) -> Iterator[Block]:
    """The fenced blocks of a text, in order, as in CommonMark; a fence may be indented, as in a list."""
    opening: tuple[str, int, str, int] | None = None  # its fence, its indentation, the language, where it begins
    lines: list[str] = []
    position = 0
    for line in text.splitlines(keepends=True):
        fence, indent, rest = _fence(line)
        if opening is None:
            if fence and not (fence[0] == "`" and "`" in rest):
                opening, lines = (fence, indent, rest, position), []
        elif _closes(opening, fence, indent, rest):
            yield _block(opening, lines, position + len(line), True)
            opening = None
        else:
            lines.append(line)
        position += len(line)
    if opening is not None:
        yield _block(opening, lines, position, False)


def _fence(line: str) -> tuple[str, int, str]:
    """The fence that a line begins with, or "", its indentation, and what follows."""
    bare = line.strip()
    if not bare.startswith(("```", "~~~")):
        return "", 0, ""
    rest = bare.lstrip(bare[0])
    return bare[: len(bare) - len(rest)], len(line) - len(line.lstrip()), rest.strip()


def _closes(opening: tuple[str, int, str, int], fence: str, indent: int, rest: str) -> bool:
    """Three columns deeper than the opening at most, for a deeper fence may be part of a string."""
    return bool(fence) and not rest and fence.startswith(opening[0]) and indent <= opening[1] + 3


def _block(opening: tuple[str, int, str, int], lines: list[str], end: int, closed: bool) -> Block:
    _, indent, info, start = opening
    content = "".join(line[min(indent, len(line) - len(line.lstrip(" "))) :] for line in lines)
    return Block(info.split()[0].lower() if info else "", content.replace("\r\n", "\n"), start, end, closed)


def read_reply(text: str) -> Reply:
    """What a reply says. Only what follows the last </think> counts, and nothing where a <think> is left open."""
    said = text[text.rfind(THOUGHT) + len(THOUGHT) :] if THOUGHT in text else text
    if THINK in said:
        return Reply(None, True, None, True, False)
    blocks = list(fenced(said))
    first = next((block for block in blocks if block.is_code), None)
    if first is None:
        answer = boxed(said)
        programs = sum(block.language in PYTHON for block in blocks)
        return Reply(None, True, answer, answer is None, answer is not None and not programs)
    answer = boxed(said[: first.start])
    valid = first.closed and answer is None and not said[first.end :].strip()
    return Reply(first.content, first.closed, answer, False, valid)
