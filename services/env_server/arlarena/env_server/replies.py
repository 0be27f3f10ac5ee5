"""Reading a model's reply: which action it means, and whether it kept to the strict format. For all text games."""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

PARSER_VERSION = "1"
PARSER_DESCRIPTION = (
    "The content of the only <action>…</action>, or a reply without tags as it is; where the actions are known, one of "
    "them in any case. Strict format: <think>…</think><action>…</action>."
)

_TAG = re.compile(r"</?(?:think|action)>")
_STRICT = ["<think>", "</think>", "<action>", "</action>"]


class Reply(msgspec.Struct, frozen=True, gc=False):
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
    return f"<think>{thought}</think><action>{action}</action>"


def parse(text: str, actions: Collection[str] | None = None) -> Reply:
    """Read a whole reply or a bare action.

    With exactly one `<action>…</action>` its content is the action. A reply without any tag is an action itself.
    Anything else cannot be read. Where `actions` are known, one of them must be meant; case and surrounding white space
    do not matter. The format is valid when the reply is `<think>…</think><action>…</action>`, each tag once, and
    nothing but white space around them.
    """
    tags = list(_TAG.finditer(text)) if "<" in text else []
    if not tags:
        written = text.strip()
        return Reply(_meant(written, actions), written, format_valid=False)
    names = [tag.group() for tag in tags]
    written = ""
    if names.count("<action>") == names.count("</action>") == 1:
        begin, end = tags[names.index("<action>")].end(), tags[names.index("</action>")].start()
        written = text[begin:end].strip()  # "" if they are the wrong way round
    return Reply(
        action=_meant(written, actions),
        written=written,
        format_valid=names == _STRICT and _nothing_around(text, tags),
    )


def _meant(written: str, actions: Collection[str] | None) -> str | None:
    if actions is None or written in actions:
        return written or None
    lower = written.lower()
    return next((action for action in actions if action.lower() == lower), None)


def _nothing_around(text: str, tags: list[re.Match[str]]) -> bool:
    """Whether only white space stands before, between and after the two elements of a strict reply."""
    outside = text[: tags[0].start()], text[tags[1].end() : tags[2].start()], text[tags[3].end() :]
    return not any(part.strip() for part in outside)
