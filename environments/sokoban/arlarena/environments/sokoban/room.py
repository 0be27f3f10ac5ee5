"""A room: a grid with walls, targets, boxes and a player, stored as bit masks.

The cell (row, column) has the number `row * width + column`, and the bit `1 << number` in a mask. The cells of the
border are always walls, so the numbers of neighbours (± 1, ± width) need no bounds check.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

WALL, FLOOR, TARGET, BOX, BOX_ON_TARGET, PLAYER, PLAYER_ON_TARGET = "#_OX√PS"

# `Room.parse` also accepts the glyphs of the file formats Boxoban and XSB. No glyph has two meanings.
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
    """Yield the numbers of the cells in `mask`, in ascending order."""
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
        RoomError: the room is smaller than 3x3 cells; the border has floor; a target, a box or the player is on a wall;
            the player is on a box; there is no box; or the numbers of boxes and targets differ.
    """

    height: int
    width: int
    floor: int
    targets: int
    boxes: int
    player: int

    def __post_init__(self) -> None:
        if self.height < 3 or self.width < 3:
            raise RoomError(f"a room must have at least 3x3 cells, but this room has {self.height}x{self.width}")
        if self.floor & ~interior(self.height, self.width):
            raise RoomError("the border of a room must be wall")
        if self.targets & ~self.floor or self.boxes & ~self.floor or not self.floor >> self.player & 1:
            raise RoomError("targets, boxes and the player must stand on floor")
        if self.boxes >> self.player & 1:
            raise RoomError("the player must not stand on a box")
        if self.boxes.bit_count() != self.targets.bit_count() or not self.boxes:
            raise RoomError(
                "the numbers of boxes and targets must be equal and positive, but there are "
                f"{self.boxes.bit_count()} boxes and {self.targets.bit_count()} targets"
            )

    @classmethod
    def parse(cls, text: str) -> Room:
        """Parse a grid in the glyphs of this module, of Boxoban or of XSB.

        Raises:
            RoomError: a glyph is unknown, the number of players is not 1, the walls have an opening, or the room
                violates a rule of `Room`.
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
            raise RoomError(f"a room must have one player, but this room has {len(players)}")
        floor &= ~_outside_cells(len(lines), width, floor, boxes | targets | 1 << players[0])
        return cls(len(lines), width, floor, targets, boxes, players[0])

    def rows(self) -> list[str]:
        """Return the room at the start, one string per row, in this module's glyphs."""
        return render(self, self.player, self.boxes)


def _outside_cells(height: int, width: int, floor: int, things: int) -> int:
    """Return the mask of the blank cells outside the walls. XSB files have such cells if a room is not rectangular.
    `things`: the mask of boxes, targets and player.

    Raises:
        RoomError: a cell of `things` is outside. In this case, the walls have an opening.
    """
    inner = interior(height, width)
    reached, new = 0, floor & ~inner
    while new:
        reached |= new
        sideways = (new & ~_column(height, width, width - 1)) << 1 | (new & ~_column(height, width, 0)) >> 1
        new = (sideways | new << width | new >> width) & floor & ~reached
    if reached & things:
        raise RoomError("the border of a room must be wall: an opening leads from the border to the inside")
    return reached


def _column(height: int, width: int, x: int) -> int:
    """Return the mask of a column."""
    return sum(1 << (y * width + x) for y in range(height))


@lru_cache(maxsize=4096)
def _empty_grid(cell_count: int, floor: int, targets: int) -> str:
    """Return the glyphs of a room without boxes and player, row by row."""
    letters = [WALL] * cell_count
    for cell in cells(floor):
        letters[cell] = TARGET if targets >> cell & 1 else FLOOR
    return "".join(letters)


def render(room: Room, player: int, boxes: int) -> list[str]:
    """Return the grid of a room, one string per row. `player`: the player's cell number. `boxes`: the
    mask of the boxes.
    """
    width = room.width
    letters = list(_empty_grid(room.height * width, room.floor, room.targets))
    letters[player] = PLAYER_ON_TARGET if letters[player] == TARGET else PLAYER
    for cell in cells(boxes):
        letters[cell] = BOX_ON_TARGET if letters[cell] == TARGET else BOX
    text = "".join(letters)
    return [text[start : start + width] for start in range(0, len(text), width)]
