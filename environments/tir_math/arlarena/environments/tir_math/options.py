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
    """Parse a table as the options of a data set, so that error messages name the table's keys. Return a path or text
    unchanged.
    """
    if isinstance(value, Mapping):
        return parse_table("as a data set:", value, HubOptions)
    if not isinstance(value, str | Path | HubOptions):
        raise ValueError("must be the path of a file, or a table with the name of a data set")
    return value


Source = Annotated[Path | HubOptions, BeforeValidator(_source)]
LIMITS = ExecutionLimits()  # the default limits


class SandboxOptions(Table):
    """Where programs run, and their limits. Times are in seconds."""

    backend: Literal["fork", "docker"] = Field(
        "fork", description="fork: each program runs in a locked-down process; docker: in a container"
    )
    image: str | None = Field(None, description="image of the containers; it must have Python, numpy, scipy and sympy")
    runtime: str | None = Field(
        None, description="runtime of the Docker engine, such as runsc; default: the engine's default"
    )
    wall_s: PositiveFloat = Field(LIMITS.wall_s, description="limit of wall-clock time of one program")
    cpu_s: PositiveFloat = Field(LIMITS.cpu_s, description="limit of CPU time of one program")
    memory_mb: PositiveInt = Field(
        LIMITS.memory_mb,
        description="limit of memory of one program, in MiB; in a container, this includes its libraries",
    )
    output_bytes: PositiveInt = Field(LIMITS.output_bytes, description="limit of output of one program, in bytes")
    max_running: PositiveInt | None = Field(
        None, description="maximum number of programs that run at a time; default: 4 per core"
    )
    max_waiting: PositiveInt = Field(
        1024, description="maximum number of programs that wait; a step with a further program gets the HTTP status 429"
    )
    required: tuple[str, ...] = Field(
        REQUIRED, description="protection layers that the server needs; if a layer is not available, it does not start"
    )
    judge_s: PositiveFloat = Field(
        5.0, description="limit of CPU time for judging one answer; an answer that takes longer is wrong"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if unknown := set(self.required) - set(LAYERS):
            raise ValueError(f"required: unknown layers {', '.join(sorted(unknown))}; known: {', '.join(LAYERS)}")
        if self.backend == "docker" and self.image is None:
            raise ValueError("backend = 'docker': set image to an image with Python, numpy, scipy and sympy")
        if self.backend == "fork" and (self.image or self.runtime):
            raise ValueError(
                "image and runtime are for backend = 'docker': either set this backend or remove image and runtime"
            )
        return self

    @property
    def limits(self) -> ExecutionLimits:
        """The limits of one program."""
        return ExecutionLimits(self.wall_s, self.cpu_s, self.memory_mb, self.output_bytes)

    @property
    def running(self) -> int:
        """Maximum number of programs that run at a time."""
        return self.max_running or 4 * (os.cpu_count() or 1)


class TirMathOptions(Table):
    """Options of TIR Math. If `train` or `tests` is given, problems come from files or data sets. Otherwise, problems
    are generated with the options `families` and `panel_size`.
    """

    train: Source | None = Field(None, description="file or data set with training problems")
    tests: dict[str, Source] = Field(
        {}, description="test sets: each key is the name of a split, each value is a file or data set"
    )
    validation_share: float = Field(
        0.03, ge=0, lt=1, description="share of the training problems that is used for validation instead"
    )
    families: dict[str, dict[str, Any]] | None = Field(
        None, description="families of generated problems, each with its options and weight; default: all families"
    )
    panel_size: PositiveInt = Field(256, description="number of generated problems in each of validation and test")
    max_turns: PositiveInt = Field(5, description="maximum number of replies of an episode")
    interpreter: Literal["stateless", "stateful"] = Field(
        "stateless",
        description="stateful: a program can use definitions of the episode's earlier programs; stateless: it cannot",
    )
    output_chars: PositiveInt = Field(
        512, description="maximum number of characters of a program's result that the prompt shows"
    )
    template: TemplateName = Field("full", description="full: a prompt for a language model; compact: only the problem")
    stop_after_program: bool = Field(
        False, description="whether sampling stops after the first program of a reply; useful for base models"
    )
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
            raise ValueError("families is for generated problems: either remove families or remove train and tests")
        if self.listed and "panel_size" in self.model_fields_set:
            raise ValueError("panel_size is for generated problems: either remove panel_size or remove train and tests")
        for name in self.tests:
            if name in (TRAIN, VALIDATION) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
                raise ValueError(
                    f"tests.{name}: the name of a test split may have only letters, digits, _, . and -, and must not "
                    "be train or validation"
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
