"""A person at the terminal."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import TextIO

from arlarena.rollout.evaluation.errors import EvaluationStopped
from arlarena.rollout.evaluation.strategies.protocol import TurnView
from arlarena.rollout.evaluation.strategies.reply_format import ReplyFormat

HINT = "Your action (Ctrl-D ends): "
FREE_HINT = "Your reply, ended by an empty line (Ctrl-D ends):\n"


@dataclass(frozen=True, slots=True)
class PersonPlayer:
    """Shows the prompt and reads an action, or a reply of several lines if the environment's replies are free text."""

    reply_format: ReplyFormat
    source: TextIO = field(default_factory=lambda: sys.stdin)
    out: TextIO = field(default_factory=lambda: sys.stdout)
    name: str = "person"

    async def respond(self, view: TurnView) -> str:
        """See `strategies.protocol.Player`.

        Raises:
            EvaluationStopped: the person ended the input.
        """
        text = view.messages[-1].text
        actions = view.state.observation.admissible_actions
        listed = f"\nAdmissible actions: {', '.join(actions)}" if actions else ""
        self.out.write(f"\n{text}{listed}\n{HINT if self.reply_format.action else FREE_HINT}")
        self.out.flush()
        written = await asyncio.to_thread(self._read)
        is_reply = not self.reply_format.action or self.reply_format.action.partition("{action}")[0] in written
        return written if is_reply else self.reply_format.write(written)

    def _read(self) -> str:
        lines: list[str] = []
        while line := self.source.readline():
            if self.reply_format.action:
                return line.strip()
            if not line.strip() and lines:
                return "\n".join(lines)
            if line.strip():
                lines.append(line.rstrip("\n"))
        if lines:
            return "\n".join(lines)
        raise EvaluationStopped("the person ended the evaluation")
