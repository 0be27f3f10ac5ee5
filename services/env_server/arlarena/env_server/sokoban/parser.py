"""Reading a model's reply: which action it means, and whether it kept to the format."""

from __future__ import annotations

import re
from dataclasses import dataclass

from arlarena.env_server.sokoban.game import ACTIONS

PARSER_VERSION = "1"

_TAG = re.compile(r"</?(?:think|action)>")
_STRICT = ["<think>", "</think>", "<action>", "</action>"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a reply means. `action` is one of `ACTIONS`, or None for a no-op; `written` is what stood in its place."""

    action: str | None
    written: str
    format_valid: bool

    @property
    def action_valid(self) -> bool:
        """Whether an action could be read."""
        return self.action is not None


def parse(text: str) -> Reply:
    """Read a whole reply or a bare action.

    With exactly one `<action>…</action>` its content is the action. A reply without any tag is an action itself.
    Anything else cannot be read. Case and surrounding white space do not matter. The format is valid when the reply is
    `<think>…</think><action>…</action>`, each tag once, and nothing but white space around them.
    """
    tags = list(_TAG.finditer(text))
    names = [tag.group() for tag in tags]
    written = "" if tags else text.strip()
    if names.count("<action>") == names.count("</action>") == 1:
        begin, end = tags[names.index("<action>")].end(), tags[names.index("</action>")].start()
        written = text[begin:end].strip()  # "" if they are the wrong way round
    action = written.lower()
    return Reply(
        action=action if action in ACTIONS else None,
        written=written,
        format_valid=names == _STRICT and _nothing_around(text, tags),
    )


def _nothing_around(text: str, tags: list[re.Match[str]]) -> bool:
    """Whether only white space stands before, between and after the two elements of a strict reply."""
    outside = text[: tags[0].start()], text[tags[1].end() : tags[2].start()], text[tags[3].end() :]
    return not any(part.strip() for part in outside)
