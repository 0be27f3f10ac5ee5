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
    """What can be set of ALFWorld. `things`, `receptacles` and `instances` are about made games, not about files."""

    games: Path | None = Field(
        None, description="official games, or any in their format; default: ALFWORLD_DATA, if set"
    )
    task_types: tuple[str, ...] = Field(TASK_TYPES, description="kinds of tasks to play")
    things: tuple[int, int] = Field((25, 45), description="portable things in a made house, at least and at most")
    receptacles: PositiveInt | None = Field(
        None, description="most receptacles of a made house; default: all of the room"
    )
    instances: PositiveInt | None = Field(
        None,
        description="most things, and most receptacles, of one kind in a made house, but for what the task needs; "
        "default: as in ALFRED",
    )
    panel_size: PositiveInt = Field(512, description="made games of valid_seen and of valid_unseen")
    max_steps: PositiveInt = Field(50, description="horizon of an episode, in steps")
    history: NonNegativeInt = Field(2, description="earlier turns in the prompt (the paper's history_length)")
    template: TemplateName = Field("full", description="prompt for a language model, or a short one for a tiny one")
    expert_think: Literal["plan", "none"] = Field(
        "plan", description="the expert's thought: `plan`, its next goal; `none`, no thought"
    )
    backend: Literal["native", "textworld"] = Field(
        "native", description="our engine, or the stock one (optional packages, 800 times slower), for comparison"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_options(self.houses())
        return self

    def houses(self) -> HouseOptions:
        """The part that made games depend on."""
        return HouseOptions(tuple(self.task_types), self.things, self.receptacles, self.instances)


def read_options(where: str, values: Mapping[str, Any]) -> AlfworldOptions:
    """Validated options; `where` begins the message of an error.

    Raises:
        ConfigError: an unknown option, or a value that is out of range.
    """
    return parse_table(where, values, AlfworldOptions)
