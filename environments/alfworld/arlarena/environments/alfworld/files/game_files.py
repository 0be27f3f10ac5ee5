"""Official games, and any in their format: `<root>/<split>/<type>-<thing>-<…>-<scene>/<trial>/game.tw-pddl`.

A folder is indexed by its names alone, and what says whether a game can be solved; a game is read when it is played.
As in ALFWorld, games with sliced things or movable receptacles are left out, and so are those marked unsolvable.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import msgspec

from arlarena.environment.indexed_tasks import index_of
from arlarena.environment.protocols import TaskError
from arlarena.environments.alfworld.content import GameFile, Loaded, loaded
from arlarena.environments.alfworld.engine.game import read_rules
from arlarena.environments.alfworld.errors import GameError
from arlarena.environments.alfworld.task_kinds import TASK_TYPES
from arlarena.proto.env_api import DataSource
from arlarena.proto.text.files import TextFileError, read_text

GAME, TRAJECTORY = "game.tw-pddl", "traj_data.json"
MADE_PROBLEM = "made"  # the name of the PDDL problem in a game that `export` wrote
OFFICIAL_PROBLEM = "(problem plan_trial_T"  # so ALFRED names its problems: by the time of the trial
SPLITS = ("train", "valid_seen", "valid_unseen")
INNER = ("json_2.1.1", "json_2.1.2")  # the folder that ALFWorld's download makes inside ALFWORLD_DATA
LONGEST_FILE = 8 << 20  # ALFWorld's games have some 100 KB
LEFT_OUT = ("movable", "Sliced")


Content = TypeVar("Content", bound=msgspec.Struct)


class Solvable(msgspec.Struct):
    """What the index reads of it. ALFWorld leaves out what does not say that it can be solved."""

    solvable: bool | None = None


class TaskOf(msgspec.Struct):
    """What is read of a `traj_data.json`."""

    task_type: str = ""


@dataclass(frozen=True, slots=True)
class GamePath:
    """A game's file. `name`: `<folder>/<trial>`, as a task id has it."""

    path: Path
    name: str


class FileGames:
    """The games of a folder, or of one file.

    Args:
        root: ALFWORLD_DATA, the folder of splits in it, any folder with games, or one game
        types: kinds of tasks to play; a game in a folder that does not name its kind is of any

    Raises:
        GameError: it is not there, or has no game.
    """

    def __init__(self, root: Path, types: Sequence[str] = TASK_TYPES) -> None:
        self.root = root
        if not root.exists():
            raise GameError(f"{root}: no such file or folder")
        base = next((root / inner for inner in INNER if (root / inner).is_dir()), root)
        found = {split: _entries(base / split, types) for split in SPLITS if (base / split).is_dir()}
        if not found:
            found = {"train": _entries(base, types)}
        self._splits = {split: entries for split, entries in found.items() if entries}
        if not self._splits:
            raise GameError(
                f"{root}: no game that can be played: <split>/<task>/<trial>/{GAME} is looked for, with split one of "
                f'{", ".join(SPLITS)}, "solvable": true in it, and a task of {", ".join(types)}'
            )
        if root.is_file():
            _decode(root, GameFile)  # one file is read at once: what is no game is an error at the start
        self._numbers = {s: {entry.name: at for at, entry in enumerate(es)} for s, es in self._splits.items()}

    def sizes(self) -> dict[str, int | None]:
        """Games of each split."""
        return {split: len(entries) for split, entries in self._splits.items()}

    def source(self) -> DataSource:
        """What they are, by the name of the first game's PDDL problem."""
        first = next(entry for entries in self._splits.values() for entry in entries)
        try:
            problem = read_file(first.path).pddl_problem
        except TaskError:  # to play it is an error that names it
            problem = ""
        if OFFICIAL_PROBLEM in problem:
            return DataSource(f"official games from {self.root}", official=True)
        if f"(problem {MADE_PROBLEM})" in problem:
            return DataSource(f"games made by arlarena, not ALFWorld's official ones, from {self.root}", official=False)
        return DataSource(f"games from {self.root}")

    def game(self, split: str, index: int) -> Loaded:
        """One game.

        Raises:
            TaskError: its file is broken; the message names it.
        """
        return read_game(self._splits[split][index].path)

    def file(self, split: str, index: int) -> GameFile:
        """The same game as the texts of its file. Errors as in `game`, of its form alone."""
        return read_file(self._splits[split][index].path)

    def name(self, split: str, index: int) -> str:
        """`<folder>/<trial>`."""
        return self._splits[split][index].name

    def index(self, split: str, name: str) -> int | None:
        """The inverse of `name`, and the index itself as text."""
        number = index_of(name)
        return self._numbers.get(split, {}).get(name) if number is None else number


@lru_cache(maxsize=256)
def read_game(path: Path) -> Loaded:
    """A game of a file.

    Raises:
        TaskError: it is broken, or more than this engine plays; the message names it.
    """
    read = read_file(path)
    try:
        return loaded(read_rules(read.pddl_domain, read.grammar, read.pddl_problem), _type_of(path))
    except GameError as error:
        raise TaskError(f"{path}: {error}") from error


def read_file(path: Path) -> GameFile:
    """The texts of a file.

    Raises:
        TaskError: it cannot be read; the message names it.
    """
    try:
        return _decode(path, GameFile)
    except GameError as error:
        raise TaskError(str(error)) from error


def _decode(path: Path, kind: type[Content]) -> Content:
    """A JSON file as `kind`.

    Raises:
        GameError: it cannot be read, or is something else; the message names it.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > LONGEST_FILE:
            raise GameError(f"{path}: a game is a plain file of at most {LONGEST_FILE} bytes")
        return msgspec.json.decode(read_text(path), type=kind)
    except TextFileError as error:
        raise GameError(str(error)) from error
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise GameError(f"{path}: {error}") from error


def _type_of(path: Path) -> str:
    """The kind of task: as `traj_data.json` says; without one as the folder is called; "" where neither says."""
    beside = path.with_name(TRAJECTORY)
    if beside.exists():
        try:
            return _decode(beside, TaskOf).task_type
        except GameError:
            pass  # the game itself may be whole
    return _folder_type(path)


def _folder_type(path: Path) -> str:
    return next((kind for part in path.parts[-3:-1] for kind in TASK_TYPES if part.startswith(f"{kind}-")), "")


def _entries(folder: Path, types: Sequence[str]) -> list[GamePath]:
    """The games below a folder, in the order of their names."""
    return [
        GamePath(path, name)
        for path, name in sorted(_files(folder), key=lambda one: one[1])
        if not any(word in name for word in LEFT_OUT)
        and ((kind := _folder_type(path)) in types or not kind)
        and _can_be_solved(path)
    ]


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    if folder.is_file():
        yield folder, folder.stem
        return
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".tw-pddl"):
                path = Path(parent, name)
                inside = path.relative_to(folder)
                yield path, str(inside.parent if name == GAME else inside.with_suffix(""))


def _can_be_solved(path: Path) -> bool:
    """Whether the file says so. A broken one stays in: to play it is an error that names it."""
    try:
        return _decode(path, Solvable).solvable is True
    except GameError:
        return True
