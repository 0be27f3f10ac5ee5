"""Chooses and opens the source of problems: generators, or files and data sets."""

from __future__ import annotations

from pathlib import Path

from arlarena.environments.tir_math.errors import ProblemsError
from arlarena.environments.tir_math.options import TirMathOptions, read_options
from arlarena.environments.tir_math.problems.families import GeneratedProblems
from arlarena.environments.tir_math.problems.files import read_file
from arlarena.environments.tir_math.problems.hub import HubOptions, read_hub
from arlarena.environments.tir_math.problems.listed import TRAIN, ListedProblems, Rows
from arlarena.environments.tir_math.settings import tir_math_data
from arlarena.proto.config import ConfigError

LISTED = 8  # maximum number of file names in an error message


def problems_of(where: str, options: TirMathOptions) -> GeneratedProblems | ListedProblems:
    """Return the source of problems. If the options name files or data sets, read them. Error messages begin with
    `where`.

    Raises:
        ConfigError: the problems cannot be read or generated. The message names the reason and the fix.
    """
    given, options = options, with_data_folder(options)
    try:
        if not options.listed:
            return GeneratedProblems(options.families, options.panel_size)
        train = _rows(options.train) if options.train is not None else None
        tests = {name: _rows(source) for name, source in options.tests.items()}
        return ListedProblems(train, tests, options.validation_share)
    except ProblemsError as error:
        if options is not given:
            raise ConfigError(f"TIR_MATH_DATA: {error}") from error
        raise ConfigError(f"{where} {'train or tests' if options.listed else 'families'}: {error}") from error


def with_data_folder(options: TirMathOptions) -> TirMathOptions:
    """Return the options with the files of the folder TIR_MATH_DATA. Return the options unchanged if this environment
    variable is not set, or if `train`, `tests` or `families` is set.

    Raises:
        ConfigError: the folder does not exist, or has no train.jsonl.
    """
    folder = tir_math_data()
    if folder is None or options.listed or options.families is not None:
        return options
    return _from_folder(folder, options)


def _from_folder(folder: Path, options: TirMathOptions) -> TirMathOptions:
    """Return the options with the files of a folder.

    The file train.jsonl is the training set. Every other .jsonl file is a test set. The name of the split is the
    file's name without `.jsonl`.

    Raises:
        ConfigError: the folder does not exist, or it has no train.jsonl. Without train.jsonl, one of the other files
            may be the training set, so none of them may be used as a test set.
    """
    if not folder.is_dir():
        problem = "this is a file: name its folder" if folder.exists() else "this folder does not exist"
        raise ConfigError(f"TIR_MATH_DATA: {folder}: {problem}")
    files = {file.stem: file for file in sorted(folder.glob("*.jsonl"))}
    train = files.pop(TRAIN, None)
    if train is None:
        names = ", ".join(sorted(file.name for file in folder.iterdir())[:LISTED]) or "nothing"
        raise ConfigError(
            f"TIR_MATH_DATA: {folder} has no train.jsonl (it has {names}): rename the training set to train.jsonl; or "
            'unset TIR_MATH_DATA and set train = "FILE" and tests = {NAME = "FILE"} in [environment.options]'
        )
    return read_options("TIR_MATH_DATA", options.model_dump(exclude_unset=True) | {"train": train, "tests": files})


def _rows(source: Path | HubOptions) -> Rows:
    if isinstance(source, HubOptions):
        return Rows(source.name, source.name, read_hub(source))
    return Rows(source.name, str(source), read_file(source))
