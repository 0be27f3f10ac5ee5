"""When two rooms are the same room: modulo the 8 symmetries of the square, and modulo where the room lies in its frame.

Rooms that are rotated, mirrored or moved inside their wall are one puzzle, so they share one canonical form. Rows of wall
around the floor carry no information and are cut off, which makes the form independent of the frame's size too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from arlarena.env_server.sokoban.room import FLOOR, TARGET, WALL, Room, cells
from arlarena.env_server.sokoban.rooms import Layout

Grid = tuple[str, ...]


def transpose(rows: Sequence[str]) -> Grid:
    """Rows become columns."""
    return tuple("".join(column) for column in zip(*rows, strict=True))


def crop(rows: Sequence[str]) -> Grid:
    """The grid without the rows and columns of wall around its floor."""

    def trimmed(lines: Sequence[str]) -> Grid:
        inhabited = [number for number, line in enumerate(lines) if line.strip(WALL)]
        return tuple(lines[inhabited[0] : inhabited[-1] + 1]) if inhabited else ()

    return transpose(trimmed(transpose(trimmed(rows))))


def images(rows: Sequence[str]) -> tuple[Grid, ...]:
    """The 8 images of a grid under rotation and mirroring; some are equal when the grid is symmetric."""
    out = []
    for base in (tuple(rows), transpose(rows)):
        mirrored = tuple(row[::-1] for row in base)
        out += [base, base[::-1], mirrored, mirrored[::-1]]
    return tuple(out)


def canonical(rows: Sequence[str]) -> str:
    """The one text that all symmetric grids share: the smallest of the cropped grid's images."""
    return min("\n".join(image) for image in images(crop(rows)))


def digest(text: str) -> str:
    """32 hex digits of blake2b."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def room_hash(room: Room) -> str:
    """The hash of a room, walls, targets, boxes and player, equal for symmetric rooms."""
    return digest(canonical(room.rows()))


def plan_hash(plan: Room | Layout) -> str:
    """The hash of a room's plan, that is its walls and targets alone, equal for symmetric rooms.

    Rooms that differ only in where the boxes and the player begin share it.
    """
    targets = plan.targets if isinstance(plan, Room) else plan.target_mask
    letters = [WALL] * (plan.height * plan.width)
    for cell in cells(plan.floor):
        letters[cell] = TARGET if targets >> cell & 1 else FLOOR
    grid = "".join(letters)
    return digest(canonical([grid[start : start + plan.width] for start in range(0, len(grid), plan.width)]))
