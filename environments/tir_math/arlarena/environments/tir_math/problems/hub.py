"""Reads problems from a data set of the Hugging Face Hub, or from a folder that the package `datasets` can read."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import msgspec
from pydantic import Field

from arlarena.environments.tir_math.errors import ProblemsError
from arlarena.environments.tir_math.problems.rows import LocatedRow, ProblemRow
from arlarena.proto.config import Table

INSTALL = "pip install datasets"
OPTIONAL = ("id", "source", "level", "subject")


class HubOptions(Table):
    """A data set and its columns. If the data set is neither a folder nor in the cache, the server downloads it at its
    start.
    """

    name: str = Field(description="name on the Hugging Face Hub, such as openai/gsm8k, or a folder")
    config: str | None = Field(None, description="configuration of the data set")
    split: str = Field("train", description="split of the data set")
    revision: str | None = Field(None, description="commit, tag or branch; default: the newest commit")
    problem: str = Field("problem", description="column with the questions")
    answer: str = Field(
        "answer",
        description="column with the answers, or with solutions that give the answer in \\boxed{} or after ####",
    )


def read_hub(options: HubOptions) -> Iterator[LocatedRow]:
    """Yield the rows of a data set.

    Raises:
        ProblemsError: `datasets` is not installed, the data set cannot be loaded, or a column is missing.
    """
    rows = _load(options)
    for column in (options.problem, options.answer):
        if column not in rows.column_names:
            raise ProblemsError(f"{options.name} has no column {column!r}; it has {', '.join(rows.column_names)}")
    others = [name for name in OPTIONAL if name in rows.column_names and name not in (options.problem, options.answer)]
    for number, values in enumerate(rows):
        place = f"{options.name}, {options.split} row {number}"
        fields = {name: values[name] for name in others if isinstance(values[name], str | int)}
        fields |= {"problem": values[options.problem], "answer": values[options.answer]}
        try:
            yield LocatedRow(msgspec.convert(fields, ProblemRow), place, number)
        except msgspec.ValidationError as error:
            raise ProblemsError(f"{place}: {error}") from error


def _load(options: HubOptions) -> Any:
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        message = f"{options.name}: to read this data set, install the package datasets: {INSTALL}"
        raise ProblemsError(message) from error
    datasets.disable_progress_bars()  # progress bars would fill the log
    try:
        return datasets.load_dataset(options.name, options.config, split=options.split, revision=options.revision)
    except Exception as error:  # `datasets` raises many types of errors for bad names, networks and files
        raise ProblemsError(f"{options.name}: {type(error).__name__}: {error}") from error
