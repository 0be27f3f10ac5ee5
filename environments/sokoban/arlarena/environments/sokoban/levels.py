"""Rooms from level files in Boxoban's format: grids, each after a line like `; 12`.

A level's floor plan is its walls and targets. As for generated rooms, the hash of the floor plan determines the split.
The name of the file has no influence. These levels are left out:
- levels that equal an earlier level, up to rotation and reflection;
- invalid rooms;
- levels that are solved at the start;
- levels that cannot be solved. If the search for a solution reaches its limit, the level is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from arlarena.environments.sokoban.room import Room, RoomError
from arlarena.environments.sokoban.solver import SearchLimit, least_pushes
from arlarena.environments.sokoban.splits import SPLITS, split_of
from arlarena.environments.sokoban.symmetry import room_hash
from arlarena.proto.text.files import TextFileError, read_text

# Maximum number of states that the searches for solutions visit: for all levels together (about 3 s), and for one
# level. A state takes 60 µs.
SEARCHED_STATES, LEVEL_STATES = 50_000, 5_000
LISTED = 10  # maximum number of levels that a message lists


class LevelsError(ValueError):
    """A level file cannot be used. The message names the file and the level."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The rooms of level files.

    Attributes:
        splits: rooms by split, in the order of the files.
        left_out: one text for each level that cannot be played, with its file, its line and the reason.
    """

    splits: Mapping[str, tuple[Room, ...]]
    left_out: tuple[str, ...]


def list_left_out(left_out: tuple[str, ...]) -> str:
    """Return the first `LISTED` texts of `left_out`, joined for a message."""
    more = len(left_out) - LISTED
    return "; ".join(left_out[:LISTED]) + (f"; and {more} more" if more > 0 else "")


def blocks(text: str) -> list[tuple[int, str]]:
    """Return (number of the first line, grid) for each level. An empty line, or a line that begins with `;`, ends a
    level.
    """
    found: list[tuple[int, list[str]]] = []
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith(";"):
            inside = False
            continue
        if not inside:
            found.append((number, []))
            inside = True
        found[-1][1].append(line)
    return [(number, "\n".join(lines)) for number, lines in found]


def _files(path: Path) -> list[Path]:
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise LevelsError(f"{path} contains no level file (*.txt)")
    return files


def _read(file: Path) -> str:
    try:
        return read_text(file)
    except OSError as error:
        raise LevelsError(f"the level file {file} cannot be read: {error.strerror}") from error
    except TextFileError as error:
        raise LevelsError(str(error)) from error


def _why_unplayable(room: Room, max_states: int) -> str:
    """Return the reason why a room cannot be played. Return "" if the room can be played, or if the search for a
    solution reaches its limit.
    """
    if room.boxes == room.targets:
        return "it is solved at the start"
    try:
        return "" if least_pushes(room, max_states=max_states) else "it cannot be solved"
    except SearchLimit:
        return ""


@lru_cache(maxsize=8)
def load_levels(path: Path) -> Levels:
    """Return the rooms of a file, or of all *.txt files below a folder.

    Raises:
        LevelsError: the folder contains no level file, a file cannot be read, or a split gets no level.
    """
    left_out: list[str] = []
    found: dict[str, tuple[str, Room]] = {}
    for file in _files(path):
        for number, grid in blocks(_read(file)):
            place = f"{file}, the level of line {number}"
            try:
                room = Room.parse(grid)
            except RoomError as error:
                left_out.append(f"{place}: {error}")
            else:
                found.setdefault(room_hash(room), (place, room))
    max_states = min(LEVEL_STATES, SEARCHED_STATES // max(1, len(found)))
    rooms: dict[str, list[Room]] = {split: [] for split in SPLITS}
    for place, room in found.values():
        if reason := _why_unplayable(room, max_states):
            left_out.append(f"{place}: {reason}")
        else:
            rooms[split_of(room)].append(room)
    levels = Levels({split: tuple(members) for split, members in rooms.items()}, tuple(left_out))
    _check_splits(path, levels)
    return levels


def _check_splits(path: Path, levels: Levels) -> None:
    empty = [split for split, rooms in levels.splits.items() if not rooms]
    if not empty:
        return
    count = sum(map(len, levels.splits.values()))
    reasons = f" Left out: {list_left_out(levels.left_out)}" if levels.left_out else ""
    if not count:
        raise LevelsError(f"{path}: none of its levels can be played.{reasons}")
    raise LevelsError(
        f"{path}: none of its {count} levels belongs to the split {', '.join(empty)}: add more levels.{reasons}"
    )
