"""The table [environment.options] of Sokoban."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, PositiveInt, model_validator

from arlarena.env_server.sokoban.expert import ThinkStyle
from arlarena.env_server.sokoban.splits import RoomOptions
from arlarena.env_server.sokoban.text import ObservationStyle, TemplateName
from arlarena.proto.config import Table, parse_table


class SokobanOptions(Table):
    """What can be set of Sokoban. Rooms depend on `size`, `boxes`, `min_moves` and `max_moves` alone."""

    size: int | tuple[int, int] = Field(6, description="side of the room, or [rows, columns], wall included")
    boxes: int = Field(1, description="number of boxes")
    min_moves: PositiveInt | None = Field(None, description="shortest optimal solution accepted, in moves")
    max_moves: PositiveInt | None = Field(None, description="longest optimal solution accepted, in moves")
    max_steps: PositiveInt = Field(15, description="horizon of an episode, in steps")
    history: int | None = Field(None, ge=0, description="earlier turns in the prompt; default 2, compact 0")
    observation: ObservationStyle = Field("grid", description="the grid, and lines of positions and neighbours")
    frames: bool = Field(False, description="a picture with each observation; always with the observation image")
    template: TemplateName = Field("full", description="prompt for a language model, or the bare observation")
    expert_think: ThinkStyle = Field("push", description="what the expert thinks: its next push, or nothing")
    panel_size: PositiveInt = Field(1024, description="tasks of an evaluation split")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.template == "compact" and self.history:
            raise ValueError("the compact template shows no history: set history = 0 or template = 'full'")
        self.rooms()  # refuses impossible sizes and bounds
        return self

    @property
    def window(self) -> int:
        """Earlier turns in the prompt."""
        if self.history is not None:
            return self.history
        return 0 if self.template == "compact" else 2

    def rooms(self) -> RoomOptions:
        """The part that rooms depend on."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return RoomOptions(height, width, self.boxes, self.min_moves, self.max_moves)


def read_options(where: str, values: Mapping[str, Any]) -> SokobanOptions:
    """Validated options; `where` begins the message of an error.

    Raises:
        ConfigError: an unknown option, or a value that is out of range.
    """
    return parse_table(where, values, SokobanOptions)
