"""A game as the server plays it: what every engine's games have in common, and those of our own engine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Self

from arlarena.environment.hashing import digest
from arlarena.environment.protocols import ExpertUnavailable
from arlarena.environment.replies import reply
from arlarena.environment.text_game import TextGame
from arlarena.environments.alfworld.content import Loaded
from arlarena.environments.alfworld.engine.game import NOTHING_HAPPENS, Game
from arlarena.environments.alfworld.expert import Expert, NoPlan

SUCCESS_REWARD = 10.0  # the paper's; nothing else is paid


class HouseGame(TextGame):
    """What both engines' games have in common. `made` None: our engine does not play it, so there is no expert."""

    def __init__(self, made: Loaded | None, think: bool) -> None:
        self._made, self._think = made, think
        if made is not None:
            self.content_key, self.kind, self.task = made.content_key, made.type, made.rules.task

    @abstractmethod
    def actions(self) -> Sequence[str]:
        """What may be typed now."""

    @abstractmethod
    def native(self) -> Game | None:
        """The same game in the same state in our own engine; None if that does not play it."""

    def offered(self) -> str:
        """All but `help`, as in the paper."""
        return ", ".join([command for command in self.actions() if command != "help"])

    def plan(self) -> list[str]:
        """The expert's replies from here.

        Raises:
            ExpertUnavailable: the goal is of none of the six kinds, or the expert is at a loss.
        """
        game = self.native()
        if game is None or self._made is None or self._made.aim is None:
            raise ExpertUnavailable("the goal is of none of ALFWorld's six kinds of tasks")
        expert = Expert(self._made.rules.house, self._made.aim)
        try:
            return [reply(thought if self._think else "", command) for thought, command in expert.moves(game)]
        except NoPlan as error:
            raise ExpertUnavailable(str(error)) from error


class AlfworldGame(HouseGame):
    """A game in our engine. What the player sees is what was last answered."""

    def __init__(self, made: Loaded, think: bool) -> None:
        super().__init__(made, think)
        self._game, self._names = Game(made.rules), ("", 0)
        self.score = float(self._game.won)

    def text(self) -> str:
        """The last answer; at the start, the room and the task."""
        return self._game.feedback

    def state(self) -> str:
        """Where everything is and what has become of it, and not what was last answered."""
        return f"{self._game.state.key:032x}"

    def state_key(self, task: str) -> str:
        """The state's own hash, and the task's."""
        if self._names[0] != task:
            self._names = task, int(digest(task), 16)
        return f"{self._game.state.key ^ self._names[1]:032x}"

    def actions(self) -> Sequence[str]:
        """What may be typed now."""
        return self._game.menu.commands

    def offered(self) -> str:
        """See `HouseGame`."""
        return self._game.menu.offered

    def play(self, action: str | None) -> float:
        """Type a command; what could not be read, or does not work here, changes nothing."""
        if action is None:
            self._game.feedback = NOTHING_HAPPENS
            return 0.0
        self._game.play(action)
        self.score = float(self._game.won)
        return SUCCESS_REWARD * self.score

    def native(self) -> Game:
        """The game itself."""
        return self._game

    def copy(self) -> Self:
        """The rules never change, so they are shared."""
        twin = copy(self)
        twin._game = self._game.copy()
        return twin
