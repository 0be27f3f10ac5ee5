"""A player that asks a person at the terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, field
from functools import cache
from typing import TextIO

from arlarena.rollout.evaluation.errors import EvaluationStopped
from arlarena.rollout.evaluation.strategies.protocol import TurnView
from arlarena.rollout.evaluation.strategies.reply_format import ReplyFormat

HINT = "Your action (Ctrl-D ends the evaluation): "
FREE_HINT = "Your reply. End it with an empty line (Ctrl-D ends the evaluation):\n"
BLOCK = 1 << 12  # maximum bytes of one read; a terminal returns at most one line per read


class LineReader:
    """Reads lines from a terminal, pipe or file.

    The reader uses no thread. A task that waits for a line can therefore be cancelled.
    """

    def __init__(self, handle: int) -> None:
        """`handle`: a file descriptor in blocking mode.

        The mode is not changed, because other programs may use the same terminal.
        """
        self._handle, self._read = handle, bytearray()

    async def line(self) -> str:
        """Return the next line including its line end, or "" at the end of the input."""
        while b"\n" not in self._read:
            await self._readable()
            block = os.read(self._handle, BLOCK)
            if not block:
                return self._take(len(self._read))
            self._read += block
        return self._take(self._read.index(b"\n") + 1)

    def _take(self, length: int) -> str:
        taken = bytes(self._read[:length])
        del self._read[:length]
        return taken.decode(errors="replace")

    async def _readable(self) -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        try:
            loop.add_reader(self._handle, readable.set)
        except PermissionError:  # `handle` is a file; a file is always readable
            return
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._handle)


@cache
def standard_input() -> LineReader:
    """Return the reader of the standard input. The players of all environments share it."""
    return LineReader(sys.stdin.fileno())


@dataclass(frozen=True, slots=True)
class PersonPlayer:
    """Shows the prompt and reads an action. If replies are free text, reads a reply of several lines.

    Attributes:
        reply_format: format of replies to the environment.
        source: reader of the input; None: the standard input.
        out: file to which prompts are written.
    """

    reply_format: ReplyFormat
    source: LineReader | None = None
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
        try:
            written = await self._read()
        except (asyncio.CancelledError, EvaluationStopped):
            self.out.write("\n")  # further output starts on a new line
            raise
        is_reply = not self.reply_format.action or self.reply_format.action.partition("{action}")[0] in written
        return written if is_reply else self.reply_format.write(written)

    async def _read(self) -> str:
        source, lines = self.source or standard_input(), list[str]()
        while line := await source.line():
            if self.reply_format.action:
                return line.strip()
            if not line.strip() and lines:
                return "\n".join(lines)
            if line.strip():
                lines.append(line.rstrip("\n"))
        if lines:
            return "\n".join(lines)
        raise EvaluationStopped("the person ended the evaluation")
