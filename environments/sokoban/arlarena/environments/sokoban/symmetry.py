"""Hashes that identify rooms and floor plans up to symmetry.

A *room* is its walls, targets, boxes and player. All rotations and reflections of a room have the same hash. A *floor
plan* is only the walls and targets. The hash of a floor plan does not change if the floor plan is rotated or reflected,
or if more walls surround it. Equal rooms have equal floor plans. Two sets of rooms without a common floor plan
therefore have no common room.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from arlarena.environment.hashing import digest
from arlarena.environments.sokoban.room import FLOOR, TARGET, WALL, Room, cells
from arlarena.environments.sokoban.rooms import Layout

Grid = tuple[str, ...]


def transpose(rows: Sequence[str]) -> Grid:
    """Transpose a grid."""
    return tuple("".join(column) for column in zip(*rows, strict=True))


def crop(rows: Sequence[str]) -> Grid:
    """Remove the outer rows and columns of a grid that contain only walls."""

    def trimmed(lines: Sequence[str]) -> Grid:
        non_wall = [number for number, line in enumerate(lines) if line.strip(WALL)]
        return tuple(lines[non_wall[0] : non_wall[-1] + 1]) if non_wall else ()

    return transpose(trimmed(transpose(trimmed(rows))))


def images(rows: Sequence[str]) -> tuple[Grid, ...]:
    """Return the 8 images of a grid: its rotations and their reflections. A symmetric grid has equal images."""
    out = []
    for base in (tuple(rows), transpose(rows)):
        mirrored = tuple(row[::-1] for row in base)
        out += [base, base[::-1], mirrored, mirrored[::-1]]
    return tuple(out)


def canonical(rows: Sequence[str]) -> str:
    """Return the canonical text of a grid: the first of its 8 images in alphabetical order."""
    return min("\n".join(image) for image in images(rows))


def room_hash(room: Room) -> str:
    """Return the hash of a room. All rotations and reflections of a room have the same hash."""
    return digest(canonical(room.rows()))


def floor_plan_hash(room: Room | Layout) -> str:
    """Return the hash of the walls and targets of a room. The hash does not change if the room is rotated or reflected,
    or if more walls surround the room.
    """
    targets = room.targets if isinstance(room, Room) else room.target_mask
    return _floor_plan_hash(room.height, room.width, room.floor, targets)


# Small rooms have few floor plans, so this cache contains the floor plans of most drafts (attempts to draw a room).
@lru_cache(maxsize=1 << 15)
def _floor_plan_hash(height: int, width: int, floor: int, targets: int) -> str:
    letters = [WALL] * (height * width)
    for cell in cells(floor):
        letters[cell] = TARGET if targets >> cell & 1 else FLOOR
    grid = "".join(letters)
    return digest(canonical(crop([grid[start : start + width] for start in range(0, len(grid), width)])))
