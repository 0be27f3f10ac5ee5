"""A room: walls, targets, boxes and player on a grid, as bit masks.

Cell (row, column) has number `row * width + column`, and bit `1 << number` in a mask. The border is always wall, so a
neighbour's number (± 1, ± width) needs no bounds check.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

WALL, FLOOR, TARGET, BOX, BOX_ON_TARGET, PLAYER, PLAYER_ON_TARGET = "#_OX√PS"

# The letters of Boxoban and XSB are read too; no letter has two meanings.
_READ = {
    **{letter: letter for letter in "#_OX√PS"},
    " ": FLOOR,
    "-": FLOOR,
    ".": TARGET,
    "$": BOX,
    "*": BOX_ON_TARGET,
    "@": PLAYER,
    "+": PLAYER_ON_TARGET,
}
_ON_TARGET = (TARGET, BOX_ON_TARGET, PLAYER_ON_TARGET)
_HAS_BOX = (BOX, BOX_ON_TARGET)
_HAS_PLAYER = (PLAYER, PLAYER_ON_TARGET)


class RoomError(ValueError):
    """The room is invalid. The message gives the reason."""


def cells(mask: int) -> Iterator[int]:
    """Yield the cell numbers of `mask`, in reading order."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def interior(height: int, width: int) -> int:
    """Return the mask of all cells except the border."""
    row = (1 << (width - 1)) - 2
    return sum(row << (y * width) for y in range(1, height - 1))


@dataclass(frozen=True, slots=True)
class Room:
    """A room at the start of an episode. `floor`, `targets` and `boxes` are masks, `player` is a cell number.

    Raises:
        RoomError: floor on the border, something on a wall, the player on a box, or unequal numbers of boxes and
            targets.
    """

    height: int
    width: int
    floor: int
    targets: int
    boxes: int
    player: int

    def __post_init__(self) -> None:
        if self.height < 3 or self.width < 3:
            raise RoomError(f"a room of {self.height}x{self.width} has no interior")
        if self.floor & ~interior(self.height, self.width):
            raise RoomError("the border of a room must be wall")
        if self.targets & ~self.floor or self.boxes & ~self.floor or not self.floor >> self.player & 1:
            raise RoomError("targets, boxes and the player must stand on floor")
        if self.boxes >> self.player & 1:
            raise RoomError("the player stands on a box")
        if self.boxes.bit_count() != self.targets.bit_count() or not self.boxes:
            raise RoomError(f"{self.boxes.bit_count()} boxes but {self.targets.bit_count()} targets")

    @classmethod
    def parse(cls, text: str) -> Room:
        """Parse a grid in this module's glyphs or in Boxoban's.

        Raises:
            RoomError: an unknown glyph, not exactly one player, or an invalid room (see the class).
        """
        lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
        width = max((len(line) for line in lines), default=0)
        floor = targets = boxes = 0
        players = []
        for y, line in enumerate(lines):
            for x, letter in enumerate(line.ljust(width, WALL)):
                if letter not in _READ:
                    raise RoomError(f"unknown glyph {letter!r} in row {y}, column {x}")
                glyph, bit = _READ[letter], 1 << (y * width + x)
                floor |= bit if glyph != WALL else 0
                targets |= bit if glyph in _ON_TARGET else 0
                boxes |= bit if glyph in _HAS_BOX else 0
                players += [y * width + x] if glyph in _HAS_PLAYER else []
        if len(players) != 1:
            raise RoomError(f"a room has one player, this one has {len(players)}")
        floor &= ~_outside(len(lines), width, floor, boxes | targets | 1 << players[0])
        return cls(len(lines), width, floor, targets, boxes, players[0])

    def rows(self) -> list[str]:
        """Return the room at the start, one string per row, in this module's glyphs."""
        return render(self, self.player, self.boxes)


def _outside(height: int, width: int, floor: int, things: int) -> int:
    """Return the blank cells outside a room's walls, which XSB files have if the outline is not a rectangle.

    Raises:
        RoomError: some of `things` are outside, so a wall is open.
    """
    inner = interior(height, width)
    reached, new = 0, floor & ~inner
    while new:
        reached |= new
        sideways = (new & ~_column(height, width, width - 1)) << 1 | (new & ~_column(height, width, 0)) >> 1
        new = (sideways | new << width | new >> width) & floor & ~reached
    if reached & things:
        raise RoomError("the border of a room must be wall: an opening leads from the edge to the inside")
    return reached


def _column(height: int, width: int, x: int) -> int:
    """Return the mask of a column."""
    return sum(1 << (y * width + x) for y in range(height))


@lru_cache(maxsize=4096)
def _empty(cell_count: int, floor: int, targets: int) -> str:
    """Return the letters of walls, floor and targets, in reading order."""
    letters = [WALL] * cell_count
    for cell in cells(floor):
        letters[cell] = TARGET if targets >> cell & 1 else FLOOR
    return "".join(letters)


def render(room: Room, player: int, boxes: int) -> list[str]:
    """Return the room with the given player and boxes, one string per row."""
    width = room.width
    letters = list(_empty(room.height * width, room.floor, room.targets))
    letters[player] = PLAYER_ON_TARGET if letters[player] == TARGET else PLAYER
    for cell in cells(boxes):
        letters[cell] = BOX_ON_TARGET if letters[cell] == TARGET else BOX
    text = "".join(letters)
    return [text[start : start + width] for start in range(0, len(text), width)]
