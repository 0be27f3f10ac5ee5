"""Equality of rooms modulo the 8 symmetries of the square, and of plans also modulo their position in the frame.

A *room* is walls, targets, boxes and player; its hash is equal for all rotations and reflections. A *plan* is only
walls and targets; its hash is also equal for all positions in its frame of wall. Equal rooms have equal plans, so sets
with disjoint plans have disjoint rooms.
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
    """Remove the rows and columns of wall around the floor of a grid."""

    def trimmed(lines: Sequence[str]) -> Grid:
        inhabited = [number for number, line in enumerate(lines) if line.strip(WALL)]
        return tuple(lines[inhabited[0] : inhabited[-1] + 1]) if inhabited else ()

    return transpose(trimmed(transpose(trimmed(rows))))


def images(rows: Sequence[str]) -> tuple[Grid, ...]:
    """Return the 8 images of a grid under rotation and mirroring. Some images of a symmetric grid are equal."""
    out = []
    for base in (tuple(rows), transpose(rows)):
        mirrored = tuple(row[::-1] for row in base)
        out += [base, base[::-1], mirrored, mirrored[::-1]]
    return tuple(out)


def canonical(rows: Sequence[str]) -> str:
    """Return the canonical text of a grid: the smallest of its 8 images."""
    return min("\n".join(image) for image in images(rows))


def room_hash(room: Room) -> str:
    """Return the hash of a room. All rotations and mirror images of a room have the same hash."""
    return digest(canonical(room.rows()))


def plan_hash(plan: Room | Layout) -> str:
    """Return the hash of a room's plan. Rotations, mirror images and other positions in the frame of wall have the same
    hash.
    """
    targets = plan.targets if isinstance(plan, Room) else plan.target_mask
    return _plan_hash(plan.height, plan.width, plan.floor, targets)


# Small rooms have few plans and splits check many drafts, so this cache answers most of them.
@lru_cache(maxsize=1 << 15)
def _plan_hash(height: int, width: int, floor: int, targets: int) -> str:
    letters = [WALL] * (height * width)
    for cell in cells(floor):
        letters[cell] = TARGET if targets >> cell & 1 else FLOOR
    grid = "".join(letters)
    return digest(canonical(crop([grid[start : start + width] for start in range(0, len(grid), width)])))
