"""The table [environment.options] of TIR Math."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from arlarena.environments.tir_math.episode.prompts import TemplateName
from arlarena.environments.tir_math.problems.hub import HubOptions
from arlarena.environments.tir_math.problems.listed import TRAIN, VALIDATION
from arlarena.proto.config import Table, parse_table
from arlarena.sandbox.limits import ExecutionLimits
from arlarena.sandbox.lockdown import LAYERS, REQUIRED


def _source(value: object) -> object:
    """A table as a data set, with an error that names what is wrong in it; other values as they are."""
    if isinstance(value, Mapping):
        return parse_table("as a data set:", value, HubOptions)
    if not isinstance(value, str | Path | HubOptions):
        raise ValueError("either the path of a file, or a table with the name of a data set")
    return value


Source = Annotated[Path | HubOptions, BeforeValidator(_source)]
LIMITS = ExecutionLimits()  # of a program for which nothing is set


class SandboxOptions(Table):
    """Where programs run, and what one may use. Times are in seconds."""

    backend: Literal["fork", "docker"] = Field("fork", description="a locked-down process, or a container, for each")
    image: str | None = Field(None, description="of the containers: Python with numpy, scipy and sympy")
    runtime: str | None = Field(None, description="the engine's runtime for containers, such as runsc")
    wall_s: PositiveFloat = Field(LIMITS.wall_s, description="limit of one program by the clock")
    cpu_s: PositiveFloat = Field(LIMITS.cpu_s, description="limit of one program in seconds of computing")
    memory_mb: PositiveInt = Field(
        LIMITS.memory_mb, description="limit of one program in MiB; of a container: with libraries"
    )
    output_bytes: PositiveInt = Field(LIMITS.output_bytes, description="limit of what one program writes")
    max_running: PositiveInt | None = Field(None, description="programs at a time; default: 4 for each core")
    max_waiting: PositiveInt = Field(
        1024, description="programs that may wait for their turn; one more is answered 429"
    )
    required: tuple[str, ...] = Field(
        REQUIRED, description="layers of protection without which the server does not start"
    )
    judge_s: PositiveFloat = Field(
        5.0, description="computing that one answer may take to be read; beyond, it is wrong"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if unknown := set(self.required) - set(LAYERS):
            raise ValueError(f"required: unknown layers {', '.join(sorted(unknown))}; known: {', '.join(LAYERS)}")
        if self.backend == "docker" and self.image is None:
            raise ValueError("backend = 'docker' needs image, one with Python, numpy, scipy and sympy")
        if self.backend == "fork" and (self.image or self.runtime):
            raise ValueError("image and runtime are of containers: set backend = 'docker', or leave them out")
        return self

    @property
    def limits(self) -> ExecutionLimits:
        """Of one program."""
        return ExecutionLimits(self.wall_s, self.cpu_s, self.memory_mb, self.output_bytes)

    @property
    def running(self) -> int:
        """Programs at a time."""
        return self.max_running or 4 * (os.cpu_count() or 1)


class TirMathOptions(Table):
    """What can be set of TIR Math. Problems are made (`families`, `panel_size`), unless `train` or `tests` is given."""

    train: Source | None = Field(None, description="a file of training problems, or a data set")
    tests: dict[str, Source] = Field({}, description="files or data sets of test problems, by their split")
    validation_share: float = Field(0.03, ge=0, lt=1, description="share of the training problems for validation")
    families: dict[str, dict[str, Any]] | None = Field(
        None, description="families of made problems, each with its options and weight; default: a mix of all"
    )
    panel_size: PositiveInt = Field(256, description="made problems of validation and of test")
    max_turns: PositiveInt = Field(5, description="replies until an episode is cut off")
    interpreter: Literal["stateless", "stateful"] = Field(
        "stateless", description="whether a program finds what earlier ones of the episode have defined"
    )
    output_chars: PositiveInt = Field(512, description="characters of a program's result that are shown")
    template: TemplateName = Field("full", description="prompt for a language model, or the bare problem")
    stop_after_program: bool = Field(False, description="have replies end with their program, for base models")
    expert_direct: float = Field(
        0.0, ge=0, le=1, description="share of problems whose answer the expert says at once, without a program"
    )
    sandbox: SandboxOptions = Field(
        default_factory=lambda: SandboxOptions.model_validate({}),
        description="where programs run, and what one may use",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.listed and self.families is not None:
            raise ValueError("problems are either made or listed: leave out families, or train and tests")
        if self.listed and "panel_size" in self.model_fields_set:
            raise ValueError("panel_size is of made problems: leave it out where train or tests is given")
        for name in self.tests:
            if name in (TRAIN, VALIDATION) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
                raise ValueError(
                    f"tests.{name}: a split's name is of letters, digits, _, . and -, and not that of another"
                )
        return self

    @property
    def listed(self) -> bool:
        """Whether problems are read, and not made."""
        return self.train is not None or bool(self.tests)


def read_options(where: str, values: Mapping[str, Any]) -> TirMathOptions:
    """Validated options; `where` begins the message of an error.

    Raises:
        ConfigError: an unknown option, or a value that is out of range.
    """
    return parse_table(where, values, TirMathOptions)
