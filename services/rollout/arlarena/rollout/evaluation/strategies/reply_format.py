"""The format of replies to an environment, as the environment's parser describes it."""

from __future__ import annotations

from dataclasses import dataclass

from arlarena.proto.env_api import Parser
from arlarena.proto.thoughts import END_THINK, THINK, answer_start

PLACEHOLDER = "{action}"


@dataclass(frozen=True, slots=True)
class ReplyFormat:
    """Writes replies in this format, and reads the actions in replies.

    Attributes:
        action: format of an action, with the placeholder {action}; "" if replies are free text.
        thought: whether a reply starts with a thought in <think>…</think>.
    """

    action: str = ""
    thought: bool = False

    @classmethod
    def of(cls, parser: Parser) -> ReplyFormat:
        """Return the reply format for a parser (`Info.parser`)."""
        return cls(parser.action, THINK in parser.tags)

    def write(self, action: str, thought: str = "") -> str:
        """Return a reply with this action. If the format has no thought, the reply does not contain `thought`."""
        answer = self.action.replace(PLACEHOLDER, action) if self.action else action
        return f"{THINK}{thought}{END_THINK}{answer}" if self.thought else answer

    def action_of(self, reply: str) -> str:
        """Return the action in a reply, or "" if the thought is not closed. Equal actions give equal texts.

        The action is the text after the thought, without the format's text around the placeholder. The action is
        converted to lower case, and one space replaces each sequence of white space.
        """
        start = answer_start(reply)
        text = "" if start is None else reply[start:]
        before, _, after = self.action.partition(PLACEHOLDER)
        if self.action and before in text:
            text = text.rpartition(before)[2]
            text = text.partition(after)[0] if after else text
        return " ".join(text.split()).casefold()
