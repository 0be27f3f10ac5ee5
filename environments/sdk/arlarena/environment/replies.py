"""Parses replies. Three terms are important:
- The *thought* is the text in <think>…</think>. The parser removes it before it looks for the action.
- The *strict format* of a reply is `<think>…</think><action>…</action>`.
- A reply is *unreadable* if it has no valid action.

Text games use `parse`. Other environments use `after_thought` to get the text after the thought, and parse this text
with their own code.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from arlarena.proto.env_api import Parser
from arlarena.proto.thoughts import END_THINK, THINK, answer_start

# The tags in replies, and the form of an action in a reply.
TAGS = (THINK, END_THINK, "<action>", "</action>")
ACTION = "<action>{action}</action>"
PARSER = Parser(
    "2",
    "Only the text after the last </think> is read. <think> may be missing, because the chat template may have written "
    "it. If the thought is not closed, the reply has no action. The action is the content of the only "
    "<action>…</action>; a text without <action> tags is itself the action. If the environment lists its actions, the "
    "action must be in the list; upper and lower case are equal. Strict format: <think>…</think><action>…</action>, or "
    "the same without <think>.",
    tags=list(TAGS),
    action=ACTION,
)

# End-of-turn tokens of models. A decoded reply may end with these tokens.
END_MARKS = (
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<|return|>", "</s>",
    "<end_of_turn>", "<｜end▁of▁sentence｜>",  # noqa: RUF001 (DeepSeek's token)
)  # fmt: skip
_ACTION = re.compile(r"<\s*+(/?+)\s*+action(?:\s[^<>/]*+)?+>", re.IGNORECASE)
_THINK = re.compile(r"<\s*+/?+\s*+think(?:\s[^<>/]*+)?+>", re.IGNORECASE)


class ParsedReply(msgspec.Struct, frozen=True, gc=False):
    """A parsed reply. `action`: the action to play; None if the reply has no valid action. `written`: the action as
    the reply writes it, even if it is not admissible.
    """

    action: str | None
    written: str
    format_valid: bool

    @property
    def action_valid(self) -> bool:
        """Whether the reply has an action."""
        return self.action is not None


def reply(thought: str, action: str) -> str:
    """Build the reply `<think>THOUGHT</think><action>ACTION</action>`."""
    return f"{THINK}{thought}{END_THINK}{ACTION.replace('{action}', action)}"


def without_end_marks(text: str) -> str:
    """Remove white space and end-of-turn tokens from the end of a reply."""
    text = text.rstrip()
    if not text.endswith(END_MARKS):  # the usual case
        return text
    end, before = len(text), -1
    while end != before:
        before = end
        while end and text[end - 1].isspace():
            end -= 1
        end -= next((len(mark) for mark in END_MARKS if text.endswith(mark, 0, end)), 0)
    return text[:end]


def after_thought(text: str) -> str | None:
    """Return the text after the thought, without end-of-turn tokens. Return None if the thought is not closed."""
    text = without_end_marks(text)
    start = answer_start(text)
    return None if start is None else text[start:]


def parse(text: str, actions: Collection[str] | None = None) -> ParsedReply:
    """Parse a complete reply or an action without tags.

    The text after the thought determines the action. If this text has exactly one element `<action>…</action>`, the
    element's content is the action. If this text has no `<action>` tag, the complete text is the action. Other replies
    are unreadable. If `actions` is not None, a reply with an action outside `actions` is unreadable. Upper and lower
    case are equal, and white space around the action is ignored.

    `format_valid` is True if the reply is exactly `<think>…</think><action>…</action>`. White space is allowed between
    and around the elements. `<think>` may be missing, because some chat templates contain it.
    """
    text = without_end_marks(text)
    start = answer_start(text)
    if start is None:
        return ParsedReply(None, "", format_valid=False)
    rest = text[start:].strip()
    tags = list(_ACTION.finditer(rest))
    if not tags:
        return ParsedReply(_match_action(rest, actions), rest, format_valid=False)
    written = ""
    if [tag[1] for tag in tags] == ["", "/"]:
        written = rest[tags[0].end() : tags[1].start()].strip()
    strict = (
        len(tags) == 2
        and rest.startswith("<action>")
        and rest.endswith("</action>")
        and _is_one_thought(text[:start].strip())
    )
    return ParsedReply(_match_action(written, actions), written, strict)


def _match_action(written: str, actions: Collection[str] | None) -> str | None:
    if actions is None or written in actions:
        return written or None
    lower = written.lower()
    return next((action for action in actions if action.lower() == lower), None)


def _is_one_thought(text: str) -> bool:
    """Return True if a text is exactly one `<think>…</think>`. The opening `<think>` may be missing."""
    marks = [mark[0] for mark in _THINK.finditer(text)]
    complete = marks == [THINK, END_THINK] and text.startswith(THINK)
    return text.endswith(END_THINK) and (complete or marks == [END_THINK])
