r"""What a reply says: a program to run, or an answer in \boxed{…}.

    reply = read_reply("Let me compute it.\n```python\nprint(2**10)\n```")
    reply.code      # "print(2**10)\n"
    reply.answer    # None

Everything here takes time linear in the text, whatever a model writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from arlarena.environment.replies import after_thought
from arlarena.environments.tir_math.episode.fences import fenced

# A box and its brace, any other escape (so that \{ opens nothing), or a brace. A box without a brace holds what TeX
# users mean by "\boxed 5": the next word, if it begins like a number or a command.
_TOKEN = re.compile(
    r"\\(?:boxed|fbox)(?![A-Za-z])\s*"
    r"(?:(?P<open>\{)|(?P<bare>[-+]?[0-9.][^\s${}]*|[-+]?\\[A-Za-z]+(?:\{[^{}]*\})*))?"
    r"|\\.|[{}]",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class MathReply:
    r"""A reply that was read.

    Attributes:
        code: content of the first block of Python.
        closed: whether its fence was; True where there is no block.
        answer: the last \boxed before that block, or anywhere where there is none.
        no_action: neither code nor answer.
        format_valid: either a program, in one closed block that ends the reply, its fences on lines of their own, or an
            answer, and not both.
    """

    code: str | None
    closed: bool
    answer: str | None
    no_action: bool
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


def read_reply(text: str) -> MathReply:
    """What a reply says after its thought: nothing where that is not closed."""
    said = after_thought(text)
    if said is None:
        return MathReply(None, True, None, True, False)
    said = said.replace("\r\n", "\n").replace("\r", "\n")
    programs = 0
    for block in fenced(said):
        if block.is_code:
            answer = boxed(said[: block.start])
            alone = block.closed and block.on_lines and answer is None and not said[block.end :].strip()
            return MathReply(block.content, block.closed, answer, False, alone)
        programs += block.names_code and block.on_lines  # ```python``` within a line mentions a fence
    answer = boxed(said)
    return MathReply(None, True, answer, answer is None, answer is not None and not programs)
