"""Problems of a Hugging Face data set: one of the hub by its name, or a folder of files that `datasets` reads."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import msgspec
from pydantic import Field

from arlarena.environments.tir_math.errors import ProblemsError
from arlarena.environments.tir_math.problems.rows import Placed, ProblemRow
from arlarena.proto.config import Table

INSTALL = "pip install datasets"
OPTIONAL = ("id", "source", "level", "subject")


class HubOptions(Table):
    """A data set and its columns. It is downloaded when the server starts, unless it is a folder or in the cache."""

    name: str = Field(description="its name, like openai/gsm8k, or a folder")
    config: str | None = Field(None, description="which of its configurations")
    split: str = Field("train", description="which of its splits, as it calls them")
    revision: str | None = Field(None, description="a commit, tag or branch of it; default: the newest")
    problem: str = Field("problem", description="the column of questions")
    answer: str = Field("answer", description="that of answers, or of solutions that box theirs or put it behind ####")


def read_hub(options: HubOptions) -> Iterator[Placed]:
    """The rows of a data set.

    Raises:
        ProblemsError: `datasets` is not installed; the data set cannot be had; it has no such columns.
    """
    found = _load(options)
    for column in (options.problem, options.answer):
        if column not in found.column_names:
            raise ProblemsError(f"{options.name} has no column {column!r}; it has {', '.join(found.column_names)}")
    others = [name for name in OPTIONAL if name in found.column_names and name not in (options.problem, options.answer)]
    for number, values in enumerate(found):
        place = f"{options.name}, {options.split} row {number}"
        fields = {name: values[name] for name in others if isinstance(values[name], str | int)}
        fields |= {"problem": values[options.problem], "answer": values[options.answer]}
        try:
            yield Placed(msgspec.convert(fields, ProblemRow), place, number)
        except msgspec.ValidationError as error:
            raise ProblemsError(f"{place}: {error}") from error


def _load(options: HubOptions) -> Any:
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        message = f"{options.name} is read with the package datasets, which is not installed: {INSTALL}"
        raise ProblemsError(message) from error
    datasets.disable_progress_bars()  # they would be among the logs
    try:
        return datasets.load_dataset(options.name, options.config, split=options.split, revision=options.revision)
    except Exception as error:  # whatever is wrong with a name, a network or a file, it raises some thirty kinds
        raise ProblemsError(f"{options.name}: {type(error).__name__}: {error}") from error
