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
    """Parse a table as a data set, so that error messages name the keys of the table. Other values stay unchanged."""
    if isinstance(value, Mapping):
        return parse_table("as a data set:", value, HubOptions)
    if not isinstance(value, str | Path | HubOptions):
        raise ValueError("either the path of a file, or a table with the name of a data set")
    return value


Source = Annotated[Path | HubOptions, BeforeValidator(_source)]
LIMITS = ExecutionLimits()  # defaults


class SandboxOptions(Table):
    """Where programs run, and their limits. Times are in seconds."""

    backend: Literal["fork", "docker"] = Field(
        "fork", description="each program runs in a locked-down process, or in a container"
    )
    image: str | None = Field(None, description="image of the containers: Python with numpy, scipy and sympy")
    runtime: str | None = Field(None, description="the Docker engine's runtime, such as runsc")
    wall_s: PositiveFloat = Field(LIMITS.wall_s, description="wall-clock limit of one program")
    cpu_s: PositiveFloat = Field(LIMITS.cpu_s, description="CPU time limit of one program")
    memory_mb: PositiveInt = Field(
        LIMITS.memory_mb, description="memory limit of one program in MiB; for containers it includes the libraries"
    )
    output_bytes: PositiveInt = Field(LIMITS.output_bytes, description="output limit of one program")
    max_running: PositiveInt | None = Field(None, description="programs at a time; default: 4 per core")
    max_waiting: PositiveInt = Field(1024, description="programs that may wait; a request beyond it is answered 429")
    required: tuple[str, ...] = Field(
        REQUIRED, description="layers of protection without which the server does not start"
    )
    judge_s: PositiveFloat = Field(
        5.0, description="CPU time limit of judging one answer; an answer beyond it is wrong"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if unknown := set(self.required) - set(LAYERS):
            raise ValueError(f"required: unknown layers {', '.join(sorted(unknown))}; known: {', '.join(LAYERS)}")
        if self.backend == "docker" and self.image is None:
            raise ValueError("backend = 'docker' needs image, one with Python, numpy, scipy and sympy")
        if self.backend == "fork" and (self.image or self.runtime):
            raise ValueError("image and runtime need backend = 'docker': set it, or leave them out")
        return self

    @property
    def limits(self) -> ExecutionLimits:
        """Limits of one program."""
        return ExecutionLimits(self.wall_s, self.cpu_s, self.memory_mb, self.output_bytes)

    @property
    def running(self) -> int:
        """Programs at a time."""
        return self.max_running or 4 * (os.cpu_count() or 1)


class TirMathOptions(Table):
    """Options of TIR Math. Problems are generated (`families`, `panel_size`), unless `train` or `tests` is given."""

    train: Source | None = Field(None, description="a file of training problems, or a data set")
    tests: dict[str, Source] = Field({}, description="files or data sets of test problems, by split")
    validation_share: float = Field(0.03, ge=0, lt=1, description="share of the training problems for validation")
    families: dict[str, dict[str, Any]] | None = Field(
        None, description="families of generated problems, each with its options and weight; default: a mix of all"
    )
    panel_size: PositiveInt = Field(256, description="number of generated problems in each of validation and test")
    max_turns: PositiveInt = Field(5, description="replies until an episode is truncated")
    interpreter: Literal["stateless", "stateful"] = Field(
        "stateless", description="stateful: a program can use definitions of the episode's earlier programs"
    )
    output_chars: PositiveInt = Field(512, description="maximum characters shown of a program's result")
    template: TemplateName = Field("full", description="prompt for a language model, or the bare problem")
    stop_after_program: bool = Field(False, description="end replies at the end of a program, for base models")
    expert_direct: float = Field(
        0.0, ge=0, le=1, description="share of problems that the expert answers directly, without a program"
    )
    sandbox: SandboxOptions = Field(
        default_factory=lambda: SandboxOptions.model_validate({}),
        description="where programs run, and their limits",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.listed and self.families is not None:
            raise ValueError("problems are either generated or listed: leave out families, or train and tests")
        if self.listed and "panel_size" in self.model_fields_set:
            raise ValueError("panel_size is for generated problems: leave it out if train or tests is given")
        for name in self.tests:
            if name in (TRAIN, VALIDATION) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
                raise ValueError(
                    f"tests.{name}: a split's name has letters, digits, _, . and -, and is not train or validation"
                )
        return self

    @property
    def listed(self) -> bool:
        """Whether problems are read from files or data sets."""
        return self.train is not None or bool(self.tests)


def read_options(where: str, values: Mapping[str, Any]) -> TirMathOptions:
    """Validate the options and return them. Error messages begin with `where`.

    Raises:
        ConfigError: an option is unknown, or a value is out of range.
    """
    return parse_table(where, values, TirMathOptions)
