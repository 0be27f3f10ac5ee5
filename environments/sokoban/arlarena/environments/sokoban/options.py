"""The table [environment.options] of Sokoban."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from arlarena.environments.sokoban.expert import ThinkStyle
from arlarena.environments.sokoban.levels import load_levels
from arlarena.environments.sokoban.splits import RoomOptions
from arlarena.environments.sokoban.text import ObservationStyle, TemplateName
from arlarena.proto.config import Table, parse_table
from arlarena.proto.task_order import SEED_STRIDE


class Curriculum(Table):
    """Training rooms that grow harder: from task `first` on, over `tasks` tasks, the bound on pushes rises to
    `max_pushes`. It begins again in each seed's block of indices (see `TaskOrder`).
    """

    first: NonNegativeInt = Field(1_000_000, description="index where it begins; the trainer's train_index_start")
    tasks: int = Field(2_000, gt=0, le=SEED_STRIDE, description="tasks until the hardest rooms are reached")


class SokobanOptions(Table):
    """What can be set of Sokoban. Rooms depend on the size, the boxes and the bounds alone, or on the level files."""

    size: int | tuple[int, int] = Field(6, description="side of the room, or [rows, columns], wall included")
    boxes: int = Field(1, description="number of boxes")
    min_moves: PositiveInt | None = Field(None, description="shortest optimal solution accepted, in moves")
    max_moves: PositiveInt | None = Field(None, description="longest optimal solution accepted, in moves")
    min_pushes: PositiveInt | None = Field(None, description="least number of pushes accepted, at least")
    max_pushes: PositiveInt | None = Field(None, description="least number of pushes accepted, at most")
    curriculum: Curriculum | None = Field(None, description="training rooms that grow harder, up to max_pushes")
    levels: Path | None = Field(None, description="a Boxoban level file, or a folder of them, instead of made rooms")
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
        if self.curriculum is not None and (self.max_pushes is None or self.levels is not None):
            raise ValueError("a curriculum needs max_pushes, the bound that it rises to, and rooms that are made")
        self.rooms()  # refuses impossible sizes and bounds
        self._check_levels()
        return self

    def _check_levels(self) -> None:
        if self.levels is None:
            return
        if kind := sorted(
            {"size", "boxes", "min_moves", "max_moves", "min_pushes", "max_pushes"} & self.model_fields_set
        ):
            raise ValueError(f"levels are what they are: leave out {', '.join(kind)}")
        load_levels(self.levels)

    @property
    def window(self) -> int:
        """Earlier turns in the prompt."""
        if self.history is not None:
            return self.history
        return 0 if self.template == "compact" else 2

    def rooms(self) -> RoomOptions:
        """The part that rooms depend on."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return RoomOptions(height, width, self.boxes, self.min_moves, self.max_moves, self.min_pushes, self.max_pushes)

    def rooms_at(self, split: str, index: int) -> RoomOptions:
        """The kind of room that a task has, curriculum included."""
        rooms = self.rooms()
        if self.curriculum is None or split != "train" or rooms.max_pushes is None:
            return rooms
        low, high = rooms.min_pushes or 1, rooms.max_pushes
        position = max(0, index - self.curriculum.first) % SEED_STRIDE
        done = min(1.0, position / self.curriculum.tasks)
        return replace(rooms, max_pushes=low + round(done * (high - low)))


def read_options(where: str, values: Mapping[str, Any]) -> SokobanOptions:
    """Validated options; `where` begins the message of an error.

    Raises:
        ConfigError: an unknown option, or a value that is out of range.
    """
    return parse_table(where, values, SokobanOptions)
