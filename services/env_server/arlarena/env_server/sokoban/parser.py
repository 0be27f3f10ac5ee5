"""Reading a model's reply: which action it means, and whether it kept to the format."""

from __future__ import annotations

import re
from dataclasses import dataclass

from arlarena.env_server.sokoban.game import ACTIONS

PARSER_VERSION = "1"

_TAG = re.compile(r"</?(?:think|action)>")
_ACTION = re.compile(r"<action>(.*?)</action>", re.DOTALL)
_STRICT = re.compile(r"\s*<think>.*</think>\s*<action>.*</action>\s*", re.DOTALL)
_STRICT_TAGS = ["<think>", "</think>", "<action>", "</action>"]


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
    tags = _TAG.findall(text)
    found = _ACTION.findall(text)
    if len(found) == 1 and tags.count("<action>") == tags.count("</action>") == 1:
        written = found[0].strip()
    else:
        written = "" if tags else text.strip()
    action = written.lower()
    return Reply(
        action=action if action in ACTIONS else None,
        written=written,
        format_valid=tags == _STRICT_TAGS and _STRICT.fullmatch(text) is not None,
    )
