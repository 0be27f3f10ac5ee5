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
    """Training rooms of increasing difficulty. From task `first` on, the maximum number of pushes rises from
    `min_pushes` (or 1) to `max_pushes` within `tasks` tasks. Each training seed has its own block of task indices (see
    `TaskOrder`). The curriculum restarts in each block.
    """

    first: NonNegativeInt = Field(
        1_000_000, description="index of the curriculum's first task; use the value of [trainer] train_index_start"
    )
    tasks: int = Field(
        2_000, gt=0, le=SEED_STRIDE, description="number of tasks after which the rooms need up to max_pushes pushes"
    )


class SokobanOptions(Table):
    """Options of Sokoban. Generated rooms depend only on `size`, `boxes`, the bounds of moves and pushes, and
    `curriculum`. Other options do not change the rooms.
    """

    size: int | tuple[int, int] = Field(
        6, description="number of rows and columns of the room, including walls; [rows, columns] if they differ"
    )
    boxes: int = Field(1, description="number of boxes")
    min_moves: PositiveInt | None = Field(None, description="minimum number of moves in the shortest solution")
    max_moves: PositiveInt | None = Field(None, description="maximum number of moves in the shortest solution")
    min_pushes: PositiveInt | None = Field(
        None, description="minimum number of pushes in the solution with the fewest pushes"
    )
    max_pushes: PositiveInt | None = Field(
        None, description="maximum number of pushes in the solution with the fewest pushes"
    )
    curriculum: Curriculum | None = Field(None, description="training rooms of increasing difficulty, up to max_pushes")
    levels: Path | None = Field(
        None, description="a Boxoban level file, or a folder of such files; its levels replace generated rooms"
    )
    max_steps: PositiveInt = Field(15, description="maximum number of steps of an episode")
    history: int | None = Field(
        None, ge=0, description="number of earlier turns in the prompt; default: 2, or 0 for the compact template"
    )
    observation: ObservationStyle = Field(
        "grid",
        description="content of an observation; grid: the grid; grid+coordinates: also the coordinates; "
        "grid+surroundings: also the coordinates and the neighbouring cells; image: an image",
    )
    frames: bool = Field(
        False, description="whether each observation has an image; observation = 'image' always has an image"
    )
    template: TemplateName = Field(
        "full", description="prompt template; full: a prompt for a language model; compact: only the observation"
    )
    expert_think: ThinkStyle = Field(
        "push", description="thought in the expert's replies; push: the direction of the next push; none: no thought"
    )
    panel_size: PositiveInt = Field(1024, description="number of tasks in each evaluation split")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.template == "compact" and self.history:
            raise ValueError("the compact template shows no history: set history = 0 or template = 'full'")
        if self.curriculum is not None and (self.max_pushes is None or self.levels is not None):
            raise ValueError(
                "curriculum: set max_pushes, the maximum number of pushes at the end of the curriculum; if levels is "
                "set, remove it"
            )
        self.rooms()  # raises ValueError for impossible sizes and bounds
        self._check_levels()
        return self

    def _check_levels(self) -> None:
        if self.levels is None:
            return
        if generator_options := sorted(
            {"size", "boxes", "min_moves", "max_moves", "min_pushes", "max_pushes"} & self.model_fields_set
        ):
            raise ValueError(f"levels replaces generated rooms: remove {', '.join(generator_options)}")
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
