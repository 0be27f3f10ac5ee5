"""Reading a model's reply: what follows its thought, the action in it, and whether it kept to the strict format.

`after_thought` is what all environments read of a reply; `parse` finds the action of a text game in it.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from arlarena.proto.env_api import Parser
from arlarena.proto.thoughts import END_THINK, THINK, said_from

# Texts with a meaning in replies, and how a reply says an action: {action} stands for it.
TAGS = (THINK, END_THINK, "<action>", "</action>")
ACTION = "<action>{action}</action>"
PARSER = Parser(
    "2",
    "What follows the thought is read: the text after the last </think>, also where the chat template has opened the "
    "thought; nothing of a reply whose thought is not closed. There, the content of the only <action>…</action>, or a "
    "text without tags as it is; where the actions are known, one of them in any case. Strict format: "
    "<think>…</think><action>…</action>, or the same without <think>.",
    tags=list(TAGS),
    action=ACTION,
)

# What models end a turn with, where it has been decoded with the text.
END_MARKS = (
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<|return|>", "</s>",
    "<end_of_turn>", "<｜end▁of▁sentence｜>",  # noqa: RUF001 (the name that DeepSeek gives it)
)  # fmt: skip
_ACTION = re.compile(r"<\s*+(/?+)\s*+action(?:\s[^<>/]*+)?+>", re.IGNORECASE)
_THINK = re.compile(r"<\s*+/?+\s*+think(?:\s[^<>/]*+)?+>", re.IGNORECASE)


class ParsedReply(msgspec.Struct, frozen=True, gc=False):
    """What a reply means. `action`: what is to be played, None if nothing; `written`: what stood in its place."""

    action: str | None
    written: str
    format_valid: bool

    @property
    def action_valid(self) -> bool:
        """Whether an action could be read."""
        return self.action is not None


def reply(thought: str, action: str) -> str:
    """A reply in the strict format."""
    return f"{THINK}{thought}{END_THINK}{ACTION.replace('{action}', action)}"


def without_end_marks(text: str) -> str:
    """A reply without the white space and the end-of-turn tokens at its end."""
    end, before = len(text), -1
    while end != before:
        before = end
        while end and text[end - 1].isspace():
            end -= 1
        end -= next((len(mark) for mark in END_MARKS if text.endswith(mark, 0, end)), 0)
    return text[:end]


def after_thought(text: str) -> str | None:
    """What a reply says after its thought, without end-of-turn tokens; None where the thought is not closed."""
    text = without_end_marks(text)
    start = said_from(text)
    return None if start is None else text[start:]


def parse(text: str, actions: Collection[str] | None = None) -> ParsedReply:
    """Read a whole reply or a bare action.

    Only what follows the thought is read; tags within the thought are not. With exactly one `<action>…</action>` there,
    its content is the action. A text without any `<action>` is an action itself. Anything else cannot be read. Where
    `actions` are known, one of them must be meant; case and surrounding white space do not matter. The format is valid
    when the reply is `<think>…</think><action>…</action>` or, as where the chat template has opened the thought,
    `…</think><action>…</action>`: each tag exactly so and once, and nothing but white space around the elements.
    """
    text = without_end_marks(text)
    start = said_from(text)
    if start is None:
        return ParsedReply(None, "", format_valid=False)
    said = text[start:].strip()
    tags = list(_ACTION.finditer(said))
    if not tags:
        return ParsedReply(_meant(said, actions), said, format_valid=False)
    written = ""
    if [tag[1] for tag in tags] == ["", "/"]:
        written = said[tags[0].end() : tags[1].start()].strip()
    strict = (
        len(tags) == 2
        and said.startswith("<action>")
        and said.endswith("</action>")
        and _is_one_thought(text[:start].strip())
    )
    return ParsedReply(_meant(written, actions), written, strict)


def _meant(written: str, actions: Collection[str] | None) -> str | None:
    if actions is None or written in actions:
        return written or None
    lower = written.lower()
    return next((action for action in actions if action.lower() == lower), None)


def _is_one_thought(text: str) -> bool:
    """Whether a text is one thought in the strict format, its opening tag given or not."""
    marks = [mark[0] for mark in _THINK.finditer(text)]
    whole = marks == [THINK, END_THINK] and text.startswith(THINK)
    return text.endswith(END_THINK) and (whole or marks == [END_THINK])
