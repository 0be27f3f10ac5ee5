"""What a player of Sokoban reads: the observation, and the prompt around it. Both are versioned in `/v1/info`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from arlarena.env_server.sokoban.game import State
from arlarena.env_server.sokoban.room import Room, cells, render

TEMPLATE_VERSION = "1"

ObservationStyle = Literal["grid", "grid+coordinates", "grid+surroundings"]
TemplateName = Literal["full", "compact"]

FULL_TEMPLATE = """\
You are playing Sokoban: push every box onto a target.
Glyphs: # wall, _ floor, O target, X box, √ box on a target, P you, S you on a target.
Each turn you choose one action: up, down, left, right or still. Moving into a box pushes it one cell, if the cell \
behind it is neither a wall nor another box. You cannot pull a box, so keep boxes out of corners.
{history}
The room now, with {remaining} of {horizon} steps left:
{observation}

First reason about the next step between <think> and </think>, then give one action between <action> and </action>, \
like this: <think>your reasoning</think><action>right</action>"""

COMPACT_TEMPLATE = "{observation}"

TEMPLATES: dict[TemplateName, str] = {"full": FULL_TEMPLATE, "compact": COMPACT_TEMPLATE}


@dataclass(frozen=True, slots=True)
class Past:
    """One earlier turn, as the prompt's history shows it."""

    step: int
    observation: str
    action: str


def coordinates(room: Room, state: State) -> str:
    """The line `you r c box r c goal r c`: rows and columns from 0, walls counted, several in reading order."""

    def place(name: str, cell: int) -> str:
        return f"{name} {cell // room.width} {cell % room.width}"

    parts = [place("you", state.player)]
    parts += [place("box", cell) for cell in cells(state.boxes)]
    parts += [place("goal", cell) for cell in cells(room.targets)]
    return " ".join(parts)


def surroundings(room: Room, state: State, grid: Sequence[str]) -> str:
    """The line `around you UDLR around box UDLR`: the cells above, below, left and right of each, as in the grid."""

    def around(cell: int) -> str:
        row, column = divmod(cell, room.width)
        return grid[row - 1][column] + grid[row + 1][column] + grid[row][column - 1] + grid[row][column + 1]

    boxes = [f"around box {around(cell)}" for cell in cells(state.boxes)]
    return " ".join([f"around you {around(state.player)}", *boxes])


def observe(room: Room, state: State, style: ObservationStyle) -> str:
    """The observation: the grid; with `grid+coordinates` one more line; with `grid+surroundings` two. No trailing
    newline.
    """
    grid = render(room, state.player, state.boxes)
    lines = [*grid]
    if style != "grid":
        lines.append(coordinates(room, state))
    if style == "grid+surroundings":
        lines.append(surroundings(room, state, grid))
    return "\n".join(lines)


def _history(past: Sequence[Past]) -> str:
    if not past:
        return ""
    turns = "\n".join(f"[Step {turn.step}]\n{turn.observation}\nYour action: {turn.action}" for turn in past)
    return f"\nYour last {len(past)} steps:\n{turns}\n" if len(past) > 1 else f"\nYour last step:\n{turns}\n"


def prompt(template: TemplateName, observation: str, past: Sequence[Past], remaining: int, horizon: int) -> str:
    """The user message of one turn. `past`: the turns of the history window, oldest first; `compact` shows none."""
    if template == "compact":
        return COMPACT_TEMPLATE.format(observation=observation)
    return FULL_TEMPLATE.format(history=_history(past), remaining=remaining, horizon=horizon, observation=observation)
