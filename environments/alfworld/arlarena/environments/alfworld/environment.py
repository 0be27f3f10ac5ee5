"""The ALFWorld environment: official games if available, otherwise generated games."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, Protocol

import msgspec

from arlarena.environment.protocols import TaskError
from arlarena.environment.text_game import TextEnvironment, TextGame
from arlarena.environments.alfworld.content import GameFile, LoadedGame
from arlarena.environments.alfworld.errors import GameError
from arlarena.environments.alfworld.files.game_files import FileGames
from arlarena.environments.alfworld.houses.generator import MAKER_VERSION
from arlarena.environments.alfworld.houses.made_games import GeneratedGames
from arlarena.environments.alfworld.options import AlfworldOptions, read_options
from arlarena.environments.alfworld.played_game import SUCCESS_REWARD, AlfworldGame
from arlarena.environments.alfworld.prompts import TEMPLATES
from arlarena.environments.alfworld.settings import alfworld_data
from arlarena.environments.alfworld.stock_engine import EnginePool, TextWorldGame, check_packages
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import DataSource, Info, ResetSpec, Split
from arlarena.proto.trajectory import Task

KINDS: Mapping[str, Literal["train", "validation", "test"]] = {
    "train": "train",
    "valid_seen": "validation",
    "valid_unseen": "test",
}


class Games(Protocol):
    """A source of games."""

    def sizes(self) -> dict[str, int | None]:
        """Return the number of games in each split; None for unlimited splits."""
        ...

    def source(self) -> DataSource:
        """Describe the games for `/v1/info`."""
        ...

    def game(self, split: str, index: int) -> LoadedGame:
        """Return one game.

        Raises:
            TaskError: the game cannot be read or generated.
        """
        ...

    def file(self, split: str, index: int) -> GameFile:
        """Return the three texts of the game's file. The rules in these texts are not checked.

        Raises:
            TaskError: the game cannot be read or generated.
        """
        ...

    def name(self, split: str, index: int) -> str:
        """Return the name of the game for task ids. Return "" if task ids contain the game's index instead."""
        ...

    def index(self, split: str, name: str) -> int | None:
        """Return the index of the game with this name. The name may be an index as text. Return None if there is no
        game with this name.
        """
        ...


class AlfworldEnvironment(TextEnvironment):
    """ALFWorld with its options."""

    name = "alfworld"
    paths = ("games",)
    rewards: Mapping[str, float] = {"success": SUCCESS_REWARD}

    def __init__(self, options: AlfworldOptions, games: Games) -> None:
        made = isinstance(games, GeneratedGames)
        self.blocking = options.backend == "textworld"
        self.version = (f"made-{MAKER_VERSION}" if made else "files-1") + ("-textworld" if self.blocking else "")
        source = "made by this server, because ALFWORLD_DATA is not set" if made else "read from files"
        self.description = f"Do a household task by text commands, in houses of ALFWorld; the games are {source}."
        self.data = games.source()
        self.options = options.model_dump(mode="json")
        self.template = TEMPLATES[options.template]
        self.horizon, self.history = options.max_steps, options.history
        self.splits = [Split(name, KINDS[name], size, name != "train") for name, size in games.sizes().items()]
        self._settings, self._games, self._pool = options, games, EnginePool()

    @property
    def info(self) -> Info:
        """The body of `/v1/info`."""
        return msgspec.structs.replace(super().info, data=self.data)

    def task(self, spec: ResetSpec) -> Task:
        """Return the task of a reset request. A task's id may contain a game's name:
        `alfworld/<split>/<folder>/<trial>`.

        Raises:
            TaskError: the task does not exist, or the fields contradict each other.
        """
        if spec.task_id is not None:
            _, _, rest = spec.task_id.partition("/")
            split, _, name = rest.partition("/")
            index = self._games.index(split, name) if split in self._games.sizes() else None
            if index is not None and spec.task_id.startswith(f"{self.name}/"):
                spec = ResetSpec(spec.seed, spec.split, spec.index, f"{self.name}/{split}/{index}", spec.episode_id)
        task = super().task(spec)
        return Task(task.environment, task.split, task.index, task.seed, self._games.name(task.split, task.index))

    def game(self, task: Task) -> TextGame:
        """Return a game at its start. This takes milliseconds, or seconds with TextWorld.

        Raises:
            TaskError: the game's file is invalid, or no game that fulfils the options was found.
        """
        think = self._settings.expert_think == "plan"
        if not self.blocking:
            loaded_game = self._games.game(task.split, task.index)
            try:
                return AlfworldGame(loaded_game, think)
            except GameError as error:
                raise TaskError(f"the game {self._games.name(task.split, task.index)}: {error}") from error
        file = self._games.file(task.split, task.index)
        native: LoadedGame | None = None
        with suppress(TaskError):  # TaskError: the native engine does not support the rules of the game
            native = self._games.game(task.split, task.index)
        return TextWorldGame(file, native, think, self._pool)


def load(where: str, values: Mapping[str, Any]) -> AlfworldEnvironment:
    """Return the environment for a table of options.

    Raises:
        ConfigError: an option is unknown or invalid, the folder has no games, or TextWorld is selected but not
            installed.
    """
    options = read_options(where, values)
    if options.backend == "textworld":
        try:
            check_packages()
        except GameError as error:
            raise ConfigError(f"{where} backend: {error}") from error
    root = options.games or alfworld_data()
    if root is None:
        return AlfworldEnvironment(options, GeneratedGames(options.houses(), options.max_steps, options.panel_size))
    try:
        return AlfworldEnvironment(options, FileGames(root, options.task_types))
    except GameError as error:
        raise ConfigError(f"{f'{where} games' if options.games else 'ALFWORLD_DATA'}: {error}") from error


__all__ = ["AlfworldEnvironment", "AlfworldGame", "TaskError", "load"]
