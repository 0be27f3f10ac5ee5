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
    """Training rooms of increasing difficulty: over `tasks` tasks from task `first` on, the limit of pushes rises to
    `max_pushes`. It restarts in each seed's block of indices (see `TaskOrder`).
    """

    first: NonNegativeInt = Field(1_000_000, description="index at which it starts; the trainer's train_index_start")
    tasks: int = Field(2_000, gt=0, le=SEED_STRIDE, description="number of tasks until max_pushes is reached")


class SokobanOptions(Table):
    """Options of Sokoban. Rooms depend only on the size, the boxes and the bounds, or on the level files."""

    size: int | tuple[int, int] = Field(6, description="side of the room, or [rows, columns], including walls")
    boxes: int = Field(1, description="number of boxes")
    min_moves: PositiveInt | None = Field(None, description="minimum length of the optimal solution, in moves")
    max_moves: PositiveInt | None = Field(None, description="maximum length of the optimal solution, in moves")
    min_pushes: PositiveInt | None = Field(None, description="minimum of the least number of pushes")
    max_pushes: PositiveInt | None = Field(None, description="maximum of the least number of pushes")
    curriculum: Curriculum | None = Field(None, description="training rooms of increasing difficulty, up to max_pushes")
    levels: Path | None = Field(
        None, description="a Boxoban level file or a folder of them, instead of generated rooms"
    )
    max_steps: PositiveInt = Field(15, description="maximum steps of an episode")
    history: int | None = Field(None, ge=0, description="earlier turns in the prompt; default 2, compact 0")
    observation: ObservationStyle = Field(
        "grid", description="the grid, optionally with positions or neighbours; or an image"
    )
    frames: bool = Field(False, description="add an image to each observation; always on for observation = 'image'")
    template: TemplateName = Field("full", description="prompt for a language model, or the bare observation")
    expert_think: ThinkStyle = Field("push", description="thought in the expert's replies: its next push, or none")
    panel_size: PositiveInt = Field(1024, description="number of tasks in each evaluation split")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.template == "compact" and self.history:
            raise ValueError("the compact template shows no history: set history = 0 or template = 'full'")
        if self.curriculum is not None and (self.max_pushes is None or self.levels is not None):
            raise ValueError("curriculum needs max_pushes, its final limit, and generated rooms (no levels)")
        self.rooms()  # refuses impossible sizes and bounds
        self._check_levels()
        return self

    def _check_levels(self) -> None:
        if self.levels is None:
            return
        if kind := sorted(
            {"size", "boxes", "min_moves", "max_moves", "min_pushes", "max_pushes"} & self.model_fields_set
        ):
            raise ValueError(f"these options are for generated rooms: with levels, leave out {', '.join(kind)}")
        load_levels(self.levels)

    @property
    def window(self) -> int:
        """Number of earlier turns in the prompt."""
        if self.history is not None:
            return self.history
        return 0 if self.template == "compact" else 2

    def rooms(self) -> RoomOptions:
        """Return the options of generated rooms."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return RoomOptions(height, width, self.boxes, self.min_moves, self.max_moves, self.min_pushes, self.max_pushes)

    def rooms_at(self, split: str, index: int) -> RoomOptions:
        """Return the room options of a task, including the curriculum."""
        rooms = self.rooms()
        if self.curriculum is None or split != "train" or rooms.max_pushes is None:
            return rooms
        low, high = rooms.min_pushes or 1, rooms.max_pushes
        position = max(0, index - self.curriculum.first) % SEED_STRIDE
        done = min(1.0, position / self.curriculum.tasks)
        return replace(rooms, max_pushes=low + round(done * (high - low)))


def read_options(where: str, values: Mapping[str, Any]) -> SokobanOptions:
    """Validate the options and return them. Error messages begin with `where`.

    Raises:
        ConfigError: an option is unknown, or a value is out of range.
    """
    return parse_table(where, values, SokobanOptions)
