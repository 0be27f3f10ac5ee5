"""The form of replies in an environment, as its parser describes it."""

from __future__ import annotations

from dataclasses import dataclass

from arlarena.proto.env_api import Parser
from arlarena.proto.thoughts import END_THINK, THINK, answer_start

PLACEHOLDER = "{action}"


@dataclass(frozen=True, slots=True)
class ReplyFormat:
    """Writes and reads replies.

    Attributes:
        action: the form of an action, with the placeholder {action}; "" if replies are free text.
        thought: whether a thought in <think>…</think> comes first.
    """

    action: str = ""
    thought: bool = False

    @classmethod
    def of(cls, parser: Parser) -> ReplyFormat:
        """Return the format of an environment (`Info.parser`)."""
        return cls(parser.action, THINK in parser.tags)

    def write(self, action: str, thought: str = "") -> str:
        """Return a reply with this action."""
        answer = self.action.replace(PLACEHOLDER, action) if self.action else action
        return f"{THINK}{thought}{END_THINK}{answer}" if self.thought else answer

    def action_of(self, reply: str) -> str:
        """Return the action in a reply, for comparisons: the text after the thought, without the form of an action.

        Case and white space do not count. "" if the thought is not closed.
        """
        start = answer_start(reply)
        text = "" if start is None else reply[start:]
        before, _, after = self.action.partition(PLACEHOLDER)
        if self.action and before in text:
            text = text.rpartition(before)[2]
            text = text.partition(after)[0] if after else text
        return " ".join(text.split()).casefold()
