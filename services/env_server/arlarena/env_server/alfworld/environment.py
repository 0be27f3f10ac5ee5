"""ALFWorld behind the server's protocols: official games where they are given, else games that we make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Literal, Protocol, Self

from arlarena.env_server.alfworld.content import Loaded
from arlarena.env_server.alfworld.errors import GameError
from arlarena.env_server.alfworld.expert import Expert, NoPlan
from arlarena.env_server.alfworld.files import FileGames
from arlarena.env_server.alfworld.game import NOTHING_HAPPENS, Game
from arlarena.env_server.alfworld.houses import MAKER_VERSION
from arlarena.env_server.alfworld.made import MadeGames
from arlarena.env_server.alfworld.options import AlfworldOptions, read_options
from arlarena.env_server.alfworld.text import TEMPLATES
from arlarena.env_server.environment import ExpertUnavailable, TaskError
from arlarena.env_server.replies import reply
from arlarena.env_server.settings import alfworld_data
from arlarena.env_server.text_game import TextEnvironment, TextGame
from arlarena.proto.config import ConfigError
from arlarena.proto.env import ResetSpec, Split
from arlarena.proto.trajectory import Task

SUCCESS_REWARD = 10.0  # the paper's; nothing else is paid
KINDS: Mapping[str, Literal["train", "validation", "test"]] = {
    "train": "train",
    "valid_seen": "validation",
    "valid_unseen": "test",
}


class Games(Protocol):
    """Where games come from."""

    def sizes(self) -> dict[str, int | None]:
        """Games of each split, None for no end."""
        ...

    def game(self, split: str, index: int) -> Loaded:
        """One game.

        Raises:
            TaskError: it cannot be had.
        """
        ...

    def name(self, split: str, index: int) -> str:
        """What a task id calls it besides its index, or ""."""
        ...

    def index(self, split: str, name: str) -> int | None:
        """The game of a name, or of an index written as one; None for no such game."""
        ...


class AlfworldGame(TextGame):
    """A game being played. What the player sees is what was last answered."""

    def __init__(self, made: Loaded, think: bool) -> None:
        self._made, self._think = made, think
        self._game = Game(made.rules)
        self.content_key, self.kind, self.task = made.content_key, made.type, made.rules.task
        self.score = float(self._game.won)

    def text(self) -> str:
        """The last answer; at the start, the room and the task."""
        return self._game.feedback

    def state(self) -> str:
        """Where everything is and what has become of it, and not what was last answered."""
        return self._game.state.key()

    def actions(self) -> Sequence[str]:
        """What may be typed now."""
        return list(self._game.commands)

    def offered(self) -> Sequence[str]:
        """All but `help`, as in the paper."""
        return [command for command in self._game.commands if command != "help"]

    def play(self, action: str | None) -> float:
        """Type a command; what could not be read, or does not work here, changes nothing."""
        if action is None:
            self._game.feedback = NOTHING_HAPPENS
            return 0.0
        self._game.play(action)
        self.score = float(self._game.won)
        return SUCCESS_REWARD * self.score

    def plan(self) -> list[str]:
        """The expert's replies from here.

        Raises:
            ExpertUnavailable: the goal is of none of the six kinds, or the expert is at a loss.
        """
        if self._made.aim is None:
            raise ExpertUnavailable("the goal is of none of ALFWorld's six kinds of tasks")
        expert = Expert(self._made.rules.house, self._made.aim)
        try:
            return [reply(thought if self._think else "", command) for thought, command in expert.moves(self._game)]
        except NoPlan as error:
            raise ExpertUnavailable(str(error)) from error

    def copy(self) -> Self:
        """The rules never change, so they are shared."""
        twin = copy(self)
        twin._game = self._game.copy()
        return twin


class AlfworldEnvironment(TextEnvironment):
    """ALFWorld with its options."""

    name = "alfworld"
    rewards: Mapping[str, float] = {"success": SUCCESS_REWARD}

    def __init__(self, options: AlfworldOptions, games: Games) -> None:
        made = isinstance(games, MadeGames)
        self.version = f"made-{MAKER_VERSION}" if made else "files-1"
        source = "made by this server, since no official ones are given (ALFWORLD_DATA)" if made else "read from files"
        self.description = f"Do a household task by text commands, in houses of ALFWorld; the games are {source}."
        self.options = options.model_dump(mode="json")
        self.template = TEMPLATES[options.template]
        self.horizon, self.history = options.max_steps, options.history
        self.splits = [Split(name, KINDS[name], size, name != "train") for name, size in games.sizes().items()]
        self._settings, self._games = options, games

    def task(self, spec: ResetSpec) -> Task:
        """The task that a reset means: by index, or by a game's name, `alfworld/<split>/<folder>/<trial>`."""
        if spec.task_id is not None:
            _, _, rest = spec.task_id.partition("/")
            split, _, name = rest.partition("/")
            index = self._games.index(split, name) if split in self._games.sizes() else None
            if index is not None and spec.task_id.startswith(f"{self.name}/"):
                spec = ResetSpec(spec.seed, spec.split, spec.index, f"{self.name}/{split}/{index}", spec.episode_id)
        task = super().task(spec)
        return Task(task.environment, task.split, task.index, task.seed, self._games.name(task.split, task.index))

    def game(self, task: Task) -> TextGame:
        """A game at its start: some milliseconds, and less if it was played lately.

        Raises:
            TaskError: its file is broken, or the options leave no game.
        """
        return AlfworldGame(self._games.game(task.split, task.index), self._settings.expert_think == "plan")


def load(where: str, values: Mapping[str, Any]) -> AlfworldEnvironment:
    """The environment for a table of options.

    Raises:
        ConfigError: see `read_options`; or the games' folder has none.
    """
    options = read_options(where, values)
    root = options.games or alfworld_data()
    if root is None:
        return AlfworldEnvironment(options, MadeGames(options.houses(), options.max_steps, options.panel_size))
    try:
        return AlfworldEnvironment(options, FileGames(root, options.task_types))
    except GameError as error:
        raise ConfigError(f"{where} games: {error}") from error


__all__ = ["AlfworldEnvironment", "AlfworldGame", "TaskError", "load"]
