"""One TOML file a run, one table a concern, and errors that name the file, the table, the key and the fix."""

from __future__ import annotations

import difflib
import signal
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from arlarena.proto.textfile import TextFileError, read_text

# Every top-level table that a run's file may hold. A service reads its own; a table outside this list is a typing
# error.
TABLES = (
    "run",
    "redis",
    "environment",
    "policy",
    "inference",
    "rollout",
    "clone",
    "trainer",
    "evaluation",
    "console",
)


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is for the user and says what to change."""


class Table(BaseModel):
    """Base of every settings table: unknown keys, NaN and infinity are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error about a name that does not exist: the nearest of `known`, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"


def read_file(path: Path) -> dict[str, Any]:
    """The whole file, with unknown tables refused.

    Raises:
        ConfigError: the file is missing, is not TOML, or holds an unknown table.
    """
    try:
        data = tomllib.loads(read_text(path))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file") from error
    except TextFileError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, or brackets nested too deep
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    for name, value in data.items():
        if name not in TABLES:
            raise ConfigError(f"{path}: unknown table [{name}]; {nearest(name, TABLES)}")
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: {name} must be a table, like [{name}]")
    return data


def _explain(where: str, error: ValidationError, model: type[BaseModel]) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"{where} unknown key {key!r}; {nearest(key, tuple(model.model_fields))}")
        elif item["type"] == "missing":
            lines.append(f"{where} key {key!r} is required")
        elif not key and item["type"] == "value_error":  # two keys contradict each other: the message names both
            lines.append(f"{where} {item['msg'].removeprefix('Value error, ')}")
        else:
            lines.append(f"{where} {key or 'table'} = {item['input']!r}: {item['msg']}")
    return "\n".join(lines)


def parse_table(where: str, values: Mapping[str, Any], model: type[Model]) -> Model:
    """Validate `values` as `model`; `where` begins each line of the error.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or range.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_explain(where, error, model)) from error


def load_table(path: Path | None, table: str, model: type[Model], overrides: Mapping[str, Any] | None = None) -> Model:
    """The table `table` of `path` as a settings model; `overrides` (flags, environment) win, those that are None do
    not count.

    Raises:
        ConfigError: see `read_file` and `parse_table`.
    """
    values = read_file(path).get(table, {}) if path is not None else {}
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    return parse_table(f"{path or 'command line'}: [{table}]", {**values, **given}, model)


def exit_on_config_error(main: Callable[[], int]) -> int:
    """Run a service's `main`. No stack trace for a configuration error, which gives exit code 2, and Ctrl-C, 130."""
    try:
        return main()
    except KeyboardInterrupt:
        print("stopped by SIGINT (Ctrl-C)", file=sys.stderr)
        return 128 + signal.SIGINT
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
