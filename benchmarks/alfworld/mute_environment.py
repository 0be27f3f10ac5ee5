"""An environment without rules. Every observation is the same ALFWorld observation, so prompts have the usual length.

python -m arlarena.env_server benchmarks.alfworld.mute_environment --port 8000
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arlarena.environment.text_game import TextGame
from arlarena.environments.alfworld.engine.game import Game
from arlarena.environments.alfworld.houses.generator import HouseOptions
from arlarena.environments.alfworld.houses.made_games import GeneratedGames
from arlarena.environments.alfworld.prompts import TEMPLATES
from arlarena.proto.config import Table, parse_table
from arlarena.proto.trajectory import Task
from benchmarks.alfworld.noop_environment import Nothing, NothingEnvironment


class Mute(Nothing):
    """A game that always shows the same observation: the first observation at a receptacle of an ALFWorld game."""

    def __init__(self) -> None:
        game = Game(GeneratedGames(HouseOptions(), 50, 1).game("train", 0).rules)
        self.task = game.rules.task
        self._response, self._menu = game.play(game.menu.commands[0]), game.menu

    def text(self) -> str:
        return self._response

    def actions(self) -> Sequence[str]:
        return self._menu.commands

    def offered(self) -> str:
        return self._menu.offered


class MuteEnvironment(NothingEnvironment):
    """An environment in which actions have no effect. Its observations are as long as those of ALFWorld."""

    name, template = "mute", TEMPLATES["full"]
    place = Mute()

    def game(self, task: Task) -> TextGame:
        return self.place


def load(where: str, options: Mapping[str, Any]) -> MuteEnvironment:
    """Return the environment. See `arlarena.environment.registry` for the arguments."""
    parse_table(where, options, Table)  # this environment has no options, so any option is an error
    return MuteEnvironment()
