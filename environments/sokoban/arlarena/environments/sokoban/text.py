"""The texts of Sokoban: observations and prompt templates."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Literal

from arlarena.environment.prompts import PromptTemplate
from arlarena.environments.sokoban.game import RoomState
from arlarena.environments.sokoban.room import Room, cells, render

ObservationStyle = Literal["grid", "grid+coordinates", "grid+surroundings", "image"]
TemplateName = Literal["full", "compact"]

_GLYPHS = "Glyphs: # wall, _ floor, O target, X box, √ box on a target, P you, S you on a target.\n"

FULL_TEMPLATE = (
    "You are playing Sokoban: push every box onto a target.\n"
    + _GLYPHS
    + "Each turn you choose one action: up, down, left, right or still. Moving into a box pushes it one cell, if the "
    "cell behind it is neither a wall nor another box. You cannot pull a box, so keep boxes out of corners.\n"
    "{history}\n"
    "The room now, with {remaining} of {horizon} steps left:\n"
    "{observation}\n\n"
    "First reason about the next step between <think> and </think>, then give one action between <action> and "
    "</action>, like this: <think>your reasoning</think><action>right</action>"
)

IMAGE_TEXT = (
    "The room is in the image: grey bricks are wall, black squares with a red outline are targets, yellow crates are "
    "boxes, a brown crate in a red outline is a box on a target, and you are the green alien."
)

TEMPLATES: dict[TemplateName, PromptTemplate] = {
    "full": PromptTemplate("full", "1", FULL_TEMPLATE),
    "compact": PromptTemplate("compact", "1", "{observation}"),
}
IMAGE_TEMPLATE = PromptTemplate("image", "1", FULL_TEMPLATE.replace(_GLYPHS, ""))


# Words in observations, thoughts and actions.
_WORDS = (
    *("\nyou ", " box ", " goal ", "\naround you ", " around box "),
    *("push up", "push down", "push left", "push right", "up", "down", "left", "right", "still"),
    *(f" {digit}" for digit in string.digits),
    "√",
)


def vocabulary(width: int) -> tuple[str, ...]:
    """Return the texts that become one token each in the tiny policy (`[policy.tiny]`): words, and parts of a room's
    border. These parts are the top, the bottom, and the two walls around each line end. The list contains only texts of
    several characters, and "√". `width`: the room's width in cells.

    Each inner cell is a separate token. All rooms of the same size therefore have equal numbers of tokens, and each
    cell has a fixed position. Fixed positions make learning easier for a small model. Borders of other widths are not
    included, because they would also match rows of walls inside a room.
    """
    return ("#" * width + "\n#", "#\n#", "#" * (width - 1) + "\nyou ", *_WORDS)


def template_for(name: TemplateName, style: ObservationStyle) -> PromptTemplate:
    """Return the template `name`. For images, the full template has no legend of the glyphs."""
    return IMAGE_TEMPLATE if (name, style) == ("full", "image") else TEMPLATES[name]


def coordinates(room: Room, state: RoomState) -> str:
    """Return the line `you r c box r c goal r c`.

    Rows r and columns c are counted from 0, walls included. Boxes and goals are listed row by row.
    """

    def place(name: str, cell: int) -> str:
        return f"{name} {cell // room.width} {cell % room.width}"

    parts = [place("you", state.player)]
    parts += [place("box", cell) for cell in cells(state.boxes)]
    parts += [place("goal", cell) for cell in cells(room.targets)]
    return " ".join(parts)


def surroundings(room: Room, state: RoomState, grid: Sequence[str]) -> str:
    """Return the line `around you UDLR around box UDLR`.

    UDLR are the four glyphs of the cells above, below, left and right of the player or of a box.
    """

    def around(cell: int) -> str:
        row, column = divmod(cell, room.width)
        return grid[row - 1][column] + grid[row + 1][column] + grid[row][column - 1] + grid[row][column + 1]

    boxes = [f"around box {around(cell)}" for cell in cells(state.boxes)]
    return " ".join([f"around you {around(state.player)}", *boxes])


def observe(room: Room, state: RoomState, style: ObservationStyle, rows: Sequence[str] | None = None) -> str:
    """Return the observation in a style, without a newline at the end. `rows`: the rendered grid, if available.

    All styles except `image` show the grid. `grid+coordinates` adds the line of `coordinates`. `grid+surroundings` adds
    the lines of `coordinates` and `surroundings`. For `image`, the text explains the image.
    """
    if style == "image":
        return IMAGE_TEXT
    grid = rows or render(room, state.player, state.boxes)
    lines = [*grid]
    if style in ("grid+coordinates", "grid+surroundings"):
        lines.append(coordinates(room, state))
    if style == "grid+surroundings":
        lines.append(surroundings(room, state, grid))
    return "\n".join(lines)
