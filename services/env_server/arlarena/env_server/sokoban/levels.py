"""Rooms from level files in Boxoban's format: blocks of a grid, each after a line like `; 12`.

A level belongs to a split by the hash of its plan, as every room does, whatever file it stands in; a level that equals
an earlier one, modulo symmetry, is left out.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from arlarena.env_server.sokoban.room import Room, RoomError
from arlarena.env_server.sokoban.splits import SPLITS, split_of
from arlarena.env_server.sokoban.symmetry import room_hash


class LevelsError(ValueError):
    """A level file cannot be used; the message names it and the level."""


def blocks(text: str) -> list[tuple[int, str]]:
    """(number of its first line, grid) of each level; a level ends at an empty line or at the next `;`."""
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
        raise LevelsError(f"{path} holds no level file (*.txt)")
    return files


def _read(file: Path) -> list[Room]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LevelsError(f"{file} cannot be read as levels: {error}") from error
    rooms = []
    for number, grid in blocks(text):
        try:
            rooms.append(Room.parse(grid))
        except RoomError as error:
            raise LevelsError(f"{file}, the level of line {number}: {error}") from error
    return rooms


@lru_cache(maxsize=8)
def load_levels(path: Path) -> dict[str, tuple[Room, ...]]:
    """The rooms of a file, or of every *.txt below a folder, by split, in order.

    Raises:
        LevelsError: a file cannot be read, a level is none, or a split would be empty.
    """
    rooms: dict[str, list[Room]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for file in _files(path):
        for room in _read(file):
            digest = room_hash(room)
            if digest not in seen:
                seen.add(digest)
                rooms[split_of(room)].append(room)
    if empty := [split for split, found in rooms.items() if not found]:
        raise LevelsError(
            f"{path}: none of its {len(seen)} levels falls into {', '.join(empty)}: more levels are needed"
        )
    return {split: tuple(found) for split, found in rooms.items()}
