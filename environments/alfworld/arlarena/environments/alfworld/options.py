"""The table [environment.options] of ALFWorld."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from arlarena.environments.alfworld.houses.generator import HouseOptions, check_options
from arlarena.environments.alfworld.prompts import TemplateName
from arlarena.environments.alfworld.task_kinds import TASK_TYPES
from arlarena.proto.config import Table, parse_table


class AlfworldOptions(Table):
    """Options of ALFWorld. `things`, `receptacles`, `instances` and `panel_size` apply only to generated games."""

    games: Path | None = Field(
        None,
        description="a folder of games in the official format, or the file of one game; default: the folder in the "
        "environment variable ALFWORLD_DATA; without this variable, games are generated",
    )
    task_types: tuple[str, ...] = Field(TASK_TYPES, description="kinds of tasks to play")
    things: tuple[int, int] = Field(
        (25, 45), description="minimum and maximum number of portable things in a generated house"
    )
    receptacles: PositiveInt | None = Field(
        None, description="maximum number of receptacles in a generated house; default: all receptacles of the room"
    )
    instances: PositiveInt | None = Field(
        None,
        description="maximum number of things of one kind, and of receptacles of one kind, in a generated house; if "
        "the task needs more, the limit does not apply; default: as in ALFRED",
    )
    panel_size: PositiveInt = Field(512, description="number of generated games in each of valid_seen and valid_unseen")
    max_steps: PositiveInt = Field(50, description="maximum number of steps of an episode")
    history: NonNegativeInt = Field(
        2, description="number of earlier turns in the prompt (history_length in the ARLArena paper)"
    )
    template: TemplateName = Field(
        "full", description="full: a prompt for a language model; compact: a short prompt for a tiny model"
    )
    expert_think: Literal["plan", "none"] = Field(
        "plan", description="thought in the expert's replies. plan: the next subgoal; none: no thought"
    )
    backend: Literal["native", "textworld"] = Field(
        "native",
        description="native: this environment's engine; textworld: TextWorld, for comparison (needs optional packages; "
        "a step takes about 1,200 times as long)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_options(self.houses())
        return self

    def houses(self) -> HouseOptions:
        """Return the options of generated games."""
        return HouseOptions(tuple(self.task_types), self.things, self.receptacles, self.instances)


def read_options(where: str, values: Mapping[str, Any]) -> AlfworldOptions:
    """Validate the options and return them. Error messages begin with `where`.

    Raises:
        ConfigError: an option is unknown, or a value is out of range.
    """
    return parse_table(where, values, AlfworldOptions)
