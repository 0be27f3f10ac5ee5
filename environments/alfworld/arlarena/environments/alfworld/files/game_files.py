"""Official games, and other games in the same format: `<root>/<split>/<type>-<thing>-<…>-<scene>/<trial>/game.tw-pddl`.

When a folder is opened, only the file names and the field `solvable` are read. A game is read when it is played. As in
ALFWorld, these games are left out: games with sliced things or movable receptacles, and games that are not marked as
solvable.
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
from arlarena.environments.alfworld.content import GameFile, LoadedGame, loaded
from arlarena.environments.alfworld.engine.game import read_rules
from arlarena.environments.alfworld.errors import GameError
from arlarena.environments.alfworld.task_kinds import TASK_TYPES
from arlarena.proto.env_api import DataSource
from arlarena.proto.text.files import TextFileError, read_text

GAME, TRAJECTORY = "game.tw-pddl", "traj_data.json"
MADE_PROBLEM = "made"  # name of the PDDL problem in games that `export` writes
OFFICIAL_PROBLEM = "(problem plan_trial_T"  # the first words of official problems; the time of the trial follows T
SPLITS = ("train", "valid_seen", "valid_unseen")
INNER = ("json_2.1.1", "json_2.1.2")  # folders in ALFWORLD_DATA to which ALFWorld's tools download the games
MAX_FILE_BYTES = 8 << 20  # ALFWorld's games have about 100 KB
LEFT_OUT = ("movable", "Sliced")  # games with one of these words in their name are left out


Content = TypeVar("Content", bound=msgspec.Struct)


class Solvable(msgspec.Struct):
    """The field of a game file that is read when the folder is opened. As in ALFWorld, games without this field are
    left out.
    """

    solvable: bool | None = None


class TrajectoryData(msgspec.Struct):
    """The field of `traj_data.json` that is read: the kind of task."""

    task_type: str = ""


@dataclass(frozen=True, slots=True)
class GamePath:
    """A game's file. `name`: `<folder>/<trial>`, as in task ids."""

    path: Path
    name: str


class FileGames:
    """The games of a folder, or of one file.

    Args:
        root: the folder of ALFWORLD_DATA, its inner folder with the splits, another folder with games, or the file of
            one game.
        types: the kinds of tasks to play. If a folder's name does not state the kind of a game, the game is included.

    Raises:
        GameError: `root` does not exist, or has no games.
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
                f"{root}: no playable game: expected <split>/<task>/<trial>/{GAME}, where <split> is one of "
                f'{", ".join(SPLITS)}, <task> begins with one of {", ".join(types)}, and the file has "solvable": true'
            )
        if root.is_file():
            _decode(root, GameFile)  # an invalid single file must be an error at the start
        self._numbers = {s: {entry.name: at for at, entry in enumerate(es)} for s, es in self._splits.items()}

    def sizes(self) -> dict[str, int | None]:
        """Return the number of games in each split."""
        return {split: len(entries) for split, entries in self._splits.items()}

    def source(self) -> DataSource:
        """Describe the games for `/v1/info`. The first game's PDDL problem shows whether the games are official."""
        first = next(entry for entries in self._splits.values() for entry in entries)
        try:
            problem = read_file(first.path).pddl_problem
        except TaskError:  # the game is invalid; when it is played, the error names its file
            problem = ""
        if OFFICIAL_PROBLEM in problem:
            return DataSource(f"official games from {self.root}", official=True)
        if f"(problem {MADE_PROBLEM})" in problem:
            return DataSource(
                f"games made by arlarena, not ALFWorld's official games, from {self.root}", official=False
            )
        return DataSource(f"games from {self.root}")

    def game(self, split: str, index: int) -> LoadedGame:
        """Return one game.

        Raises:
            TaskError: the file is invalid. The message names the file.
        """
        return read_game(self._splits[split][index].path)

    def file(self, split: str, index: int) -> GameFile:
        """Return the three texts of the game's file. The rules in these texts are not checked.

        Raises:
            TaskError: the file cannot be read. The message names the file.
        """
        return read_file(self._splits[split][index].path)

    def name(self, split: str, index: int) -> str:
        """Return the game's name, `<folder>/<trial>`."""
        return self._splits[split][index].name

    def index(self, split: str, name: str) -> int | None:
        """Return the index of the game with this name. The name may be an index as text."""
        number = index_of(name)
        return self._numbers.get(split, {}).get(name) if number is None else number


@lru_cache(maxsize=256)
def read_game(path: Path) -> LoadedGame:
    """Read a game from a file.

    Raises:
        TaskError: the file is invalid, or this engine does not support the game. The message names the file.
    """
    read = read_file(path)
    try:
        return loaded(read_rules(read.pddl_domain, read.grammar, read.pddl_problem), _type_of(path))
    except GameError as error:
        raise TaskError(f"{path}: {error}") from error


def read_file(path: Path) -> GameFile:
    """Return the three texts that a game's file contains: the PDDL domain, the grammar and the PDDL problem.

    Raises:
        TaskError: the file cannot be read. The message names the file.
    """
    try:
        return _decode(path, GameFile)
    except GameError as error:
        raise TaskError(str(error)) from error


def _decode(path: Path, kind: type[Content]) -> Content:
    """Decode a JSON file as `kind`.

    Raises:
        GameError: the file cannot be read, or it has another format. The message names the file.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
            raise GameError(f"{path}: a game must be a regular file of at most {MAX_FILE_BYTES} bytes")
        return msgspec.json.decode(read_text(path), type=kind)
    except TextFileError as error:
        raise GameError(str(error)) from error
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise GameError(f"{path}: {error}") from error


def _type_of(path: Path) -> str:
    """Return the kind of task in `traj_data.json`. If this file does not exist or is invalid, return the kind in the
    folder's name. Return "" if the kind is unknown.
    """
    beside = path.with_name(TRAJECTORY)
    if beside.exists():
        try:
            return _decode(beside, TrajectoryData).task_type
        except GameError:
            pass  # the game's own file may be valid
    return _folder_type(path)


def _folder_type(path: Path) -> str:
    return next((kind for part in path.parts[-3:-1] for kind in TASK_TYPES if part.startswith(f"{kind}-")), "")


def _entries(folder: Path, types: Sequence[str]) -> list[GamePath]:
    """Return the games below a folder, in the order of their names."""
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
    """Return whether the game is marked as solvable. Return True for an invalid file. The game is then not left out
    silently: when the game is played, the error names the file.
    """
    try:
        return _decode(path, Solvable).solvable is True
    except GameError:
        return True
