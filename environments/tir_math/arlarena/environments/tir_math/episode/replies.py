r"""Parses replies. A reply contains a program to run, or an answer in \boxed{…}.

    reply = read_reply("Let me compute it.\n```python\nprint(2**10)\n```")
    reply.code      # "print(2**10)\n"
    reply.answer    # None

For any input, all functions take time linear in the length of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from arlarena.environment.replies import after_thought
from arlarena.environments.tir_math.episode.fences import fenced

# A token is \boxed with its opening brace, another escape such as \{, or a brace. If \boxed has no brace, as in "\boxed
# 5", the content is the next word. This word must begin like a number or a command.
_TOKEN = re.compile(
    r"\\(?:boxed|fbox)(?![A-Za-z])\s*"
    r"(?:(?P<open>\{)|(?P<bare>[-+]?[0-9.][^\s${}]*|[-+]?\\[A-Za-z]+(?:\{[^{}]*\})*))?"
    r"|\\.|[{}]",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class MathReply:
    r"""A parsed reply.

    Attributes:
        code: the program, which is the content of the first block of Python; None if there is no such block.
        closed: whether the program's block has a closing fence. True if there is no program.
        answer: the content of the last \boxed{…} before the program, or in the complete text if there is no program;
            None if there is no \boxed{…}.
        no_action: whether the reply has neither a program nor an answer.
        format_valid: whether the reply has a program or an answer, but not both. The program must be in one closed
            block at the end of the reply, and there must be no code on the lines of the fences.
    """

    code: str | None
    closed: bool
    answer: str | None
    no_action: bool
    format_valid: bool


def boxed(text: str) -> str | None:
    r"""Return the content of the last \boxed{…} or \fbox{…}. Return None if there is no box. Boxes that are empty or
    not closed do not count. A box without braces, such as `\boxed 5`, contains the next word.

    >>> boxed(r"so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    last, content = -1, ""
    # For each open brace: the start of its box and the start of the content, or None if the brace opens no box.
    braces: list[tuple[int, int] | None] = []
    for token in _TOKEN.finditer(text):
        if token["open"]:
            braces.append((token.start(), token.end()))
        elif token["bare"] and token.start() > last:
            last, content = token.start(), token["bare"].rstrip(".,;:")
        elif token[0] == "{":
            braces.append(None)
        elif token[0] == "}" and braces:
            box = braces.pop()
            if box and box[0] > last and not text[box[1] : token.start()].isspace() and box[1] < token.start():
                last, content = box[0], text[box[1] : token.start()]
    return content.strip() or None


def read_reply(text: str) -> MathReply:
    """Parse a reply. Only the text after the thought is read. If the thought is not closed, there is no action."""
    rest = after_thought(text)
    if rest is None:
        return MathReply(None, True, None, True, False)
    rest = rest.replace("\r\n", "\n").replace("\r", "\n")
    programs = 0
    for block in fenced(rest):
        if block.is_code:
            answer = boxed(rest[: block.start])
            alone = block.closed and block.on_lines and answer is None and not rest[block.end :].strip()
            return MathReply(block.content, block.closed, answer, False, alone)
        programs += block.names_code and block.on_lines  # an empty program, except ```python``` within a line
    answer = boxed(rest)
    return MathReply(None, True, answer, answer is None, answer is not None and not programs)
