"""An environment with growing prompts, as in the workload `trace` of `benchmarks/inference/speed.py`.

    python -m arlarena.env_server benchmarks.rollout.trace_environment --port 0

The first prompt has 200 random letters. Each later prompt consists of the previous prompt, the unchanged reply and 60
new letters. An episode has 8 turns.
"""

from __future__ import annotations

import random
import string
from collections.abc import Mapping
from typing import Any

from arlarena.environment.prompts import PromptTemplate
from arlarena.environment.text_game import TextEnvironment, TextEpisode, TextGame
from arlarena.proto.config import Table, parse_table
from arlarena.proto.env_api import Split, StepResult
from arlarena.proto.trajectory import Task

PROMPT, OBSERVATION, TURNS = 200, 60, 8


class Transcript(TextGame):
    """A game whose state is a growing text. Each turn adds the reply and random letters.

    The random letters depend only on the task and the turn.
    """

    score = 0.0

    def __init__(self, task: Task) -> None:
        self._letters = random.Random(task.id)
        self.prompt = self._random_letters(PROMPT)

    def text(self) -> str:
        """Return the observation: the complete text."""
        return self.prompt

    def state(self) -> str:
        """Return the state: the complete text."""
        return self.prompt

    def play(self, action: str | None) -> float:
        """Add random letters to the text. Return the reward, which is always 0."""
        self.prompt += self._random_letters(OBSERVATION)
        return 0.0

    def _random_letters(self, count: int) -> str:
        return "".join(self._letters.choices(string.ascii_letters, k=count))


class TranscriptEpisode(TextEpisode):
    """An episode that accepts any reply of the policy."""

    _game: Transcript

    def step(self, text: str) -> StepResult:
        """Add the reply `text` and then random letters to the text of the game."""
        self._game.prompt += text
        return super().step(text)


class TraceEnvironment(TextEnvironment):
    """An environment without rules. An observation is the complete prompt."""

    name, version, description, horizon, history, expert = "trace", "1", "Prompts that grow.", TURNS, 0, False
    template = PromptTemplate("plain", "1", "{observation}")
    splits = (Split("train", "train", None, False),)
    rewards: Mapping[str, float] = {}

    def game(self, task: Task) -> Transcript:
        """Return a new game. See `TextEnvironment.game`."""
        return Transcript(task)

    def start(self, task: Task) -> TextEpisode:
        """Return a new episode. See `TextEnvironment.start`."""
        return TranscriptEpisode(self, task, self.game(task))


def load(where: str, options: Mapping[str, Any]) -> TraceEnvironment:
    """Return the environment. See `arlarena.environment.registry` for the arguments."""
    parse_table(where, options, Table)
    return TraceEnvironment()
