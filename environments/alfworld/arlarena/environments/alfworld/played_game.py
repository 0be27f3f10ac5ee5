"""Games of the native engine, and the base class of the games of both engines (native and TextWorld)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Self

from arlarena.environment.hashing import digest
from arlarena.environment.protocols import ExpertUnavailable
from arlarena.environment.replies import reply
from arlarena.environment.text_game import TextGame
from arlarena.environments.alfworld.content import LoadedGame
from arlarena.environments.alfworld.engine.game import NOTHING_HAPPENS, Game
from arlarena.environments.alfworld.expert import Expert, NoPlan

SUCCESS_REWARD = 10.0  # as in the ARLArena paper; there are no other rewards


class HouseGame(TextGame):
    """Base class of the games of both engines. `loaded`: the game as the native engine loads it; None if the native
    engine cannot play the game. The expert needs the native engine. `think`: whether the expert's replies have
    thoughts.
    """

    def __init__(self, loaded: LoadedGame | None, think: bool) -> None:
        self._loaded, self._think = loaded, think
        if loaded is not None:
            self.content_key, self.kind, self.task = loaded.content_key, loaded.type, loaded.rules.task

    @abstractmethod
    def actions(self) -> Sequence[str]:
        """Return the admissible commands."""

    @abstractmethod
    def native(self) -> Game | None:
        """Return the same game in the native engine, in the same state. Return None if the native engine cannot play
        the game.
        """

    def offered(self) -> str:
        """Return the admissible commands except `help`, as in the ARLArena paper."""
        return ", ".join([command for command in self.actions() if command != "help"])

    def plan(self) -> list[str]:
        """Return the expert's replies from the current state to the end.

        Raises:
            ExpertUnavailable: the goal belongs to none of the six kinds of tasks, the native engine cannot play the
                game, or the expert finds no plan.
        """
        game = self.native()
        if game is None or self._loaded is None:
            raise ExpertUnavailable("the expert needs the native engine, which cannot play this game")
        if self._loaded.goal is None:
            raise ExpertUnavailable("the goal is none of ALFWorld's six kinds of tasks")
        expert = Expert(self._loaded.rules.house, self._loaded.goal)
        try:
            return [reply(thought if self._think else "", command) for thought, command in expert.moves(game)]
        except NoPlan as error:
            raise ExpertUnavailable(str(error)) from error


class AlfworldGame(HouseGame):
    """A game in the native engine. The observation is the last response."""

    def __init__(self, loaded: LoadedGame, think: bool) -> None:
        super().__init__(loaded, think)
        self._game, self._task_hash = Game(loaded.rules), ("", 0)
        self.score = float(self._game.won)

    def text(self) -> str:
        """Return the last response; at the start, the room and the task."""
        return self._game.feedback

    def state(self) -> str:
        """Return a hash of the world state. The last response does not affect the hash."""
        return f"{self._game.state.key:032x}"

    def state_key(self, task: str) -> str:
        """Return a hash of the state and the task."""
        if self._task_hash[0] != task:
            self._task_hash = task, int(digest(task), 16)
        return f"{self._game.state.key ^ self._task_hash[1]:032x}"

    def actions(self) -> Sequence[str]:
        """Return the admissible commands."""
        return self._game.menu.commands

    def offered(self) -> str:
        """Return the admissible commands except `help`, as in the ARLArena paper."""
        return self._game.menu.offered

    def play(self, action: str | None) -> float:
        """Play a command. If the command is None or not admissible, the state does not change."""
        if action is None:
            self._game.feedback = NOTHING_HAPPENS
            return 0.0
        self._game.play(action)
        self.score = float(self._game.won)
        return SUCCESS_REWARD * self.score

    def native(self) -> Game:
        """Return the game, which is already in the native engine."""
        return self._game

    def copy(self) -> Self:
        """Return an independent copy. Both copies share the immutable rules."""
        twin = copy(self)
        twin._game = self._game.copy()
        return twin
