"""An environment without rules. Every observation is one word. With it, benchmarks measure the server without a game.

python -m arlarena.env_server benchmarks.alfworld.noop_environment --port 8000
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from arlarena.environment.prompts import PromptTemplate
from arlarena.environment.text_game import TextEnvironment, TextGame
from arlarena.proto.config import Table, parse_table
from arlarena.proto.env_api import Split
from arlarena.proto.trajectory import Task


class Nothing(TextGame):
    """A game in which no action has an effect."""

    score = 0.0

    def text(self) -> str:
        return "Nothing."

    def state(self) -> str:
        return ""

    def play(self, action: str | None) -> float:
        return 0.0

    def copy(self) -> Self:
        return self


class NothingEnvironment(TextEnvironment):
    """An environment with episodes of 50 steps. Steps have no effect."""

    name, version, description, horizon, expert = "noop", "1", "Nothing happens.", 50, False
    template = PromptTemplate("full", "1", "{history}{observation}")
    splits = (Split("train", "train", None, False),)
    rewards: Mapping[str, float] = {}

    def game(self, task: Task) -> TextGame:
        return Nothing()


def load(where: str, options: Mapping[str, Any]) -> NothingEnvironment:
    """Return the environment. See `arlarena.environment.registry` for the arguments."""
    parse_table(where, options, Table)  # this environment has no options, so any option is an error
    return NothingEnvironment()
