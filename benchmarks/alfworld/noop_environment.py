"""An environment server that does nothing: what the server itself costs, without any game.

python benchmarks/noop_environment.py noop --port 8000     says "Nothing."
python benchmarks/noop_environment.py mute --port 8000     says at each step what ALFWorld once said, in its prompt
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Self

from arlarena.env_server.__main__ import main
from arlarena.environment.prompts import PromptTemplate
from arlarena.environment.text_game import TextEnvironment, TextGame
from arlarena.environments.alfworld.engine.game import Game
from arlarena.environments.alfworld.houses.generator import HouseOptions
from arlarena.environments.alfworld.houses.library import MadeGames
from arlarena.environments.alfworld.prompts import TEMPLATES
from arlarena.proto.config import Table, parse_table
from arlarena.proto.env import Split
from arlarena.proto.trajectory import Task


class Nothing(TextGame):
    """No rules."""

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
    """Episodes of 50 steps."""

    name, version, description, horizon, expert = "noop", "1", "Nothing happens.", 50, False
    template = PromptTemplate("full", "1", "{history}{observation}")
    splits = (Split("train", "train", None, False),)
    rewards: Mapping[str, float] = {}

    def game(self, task: Task) -> TextGame:
        return Nothing()


class Mute(Nothing):
    """A place in a house of ALFWorld, whatever is done there."""

    def __init__(self) -> None:
        game = Game(MadeGames(HouseOptions(), 50, 1).game("train", 0).rules)
        self.task = game.rules.task
        self._said, self._menu = game.play(game.menu.commands[0]), game.menu

    def text(self) -> str:
        return self._said

    def actions(self) -> Sequence[str]:
        return self._menu.commands

    def offered(self) -> str:
        return self._menu.offered


class MuteEnvironment(NothingEnvironment):
    """The same, with answers of ALFWorld's length."""

    name, template = "mute", TEMPLATES["full"]
    place = Mute()

    def game(self, task: Task) -> TextGame:
        return self.place


def load(where: str, options: Mapping[str, Any]) -> NothingEnvironment:
    parse_table(where, options, Table)  # refuses any option: there are none
    return MuteEnvironment() if "mute" in sys.argv else NothingEnvironment()


if __name__ == "__main__":
    sys.modules["noop"] = sys.modules["mute"] = sys.modules["__main__"]
    sys.exit(main())
