"""Finds and checks the splits of an environment."""

from __future__ import annotations

from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import Info, Split
from arlarena.proto.text.names import known_names
from arlarena.proto.text.wording import counted


def find_split(info: Info, name: str, setting: str) -> Split:
    """Returns the split with this name from the environment's description `info`.

    `setting`: the setting that contains the name, for error messages, such as `[evaluation] split`.

    Raises:
        ConfigError: the environment has no split with this name.
    """
    for split in info.splits:
        if split.name == name:
            return split
    known = known_names(name, (split.name for split in info.splits))
    raise ConfigError(f"{setting} = {name!r}: {info.name} has no such split; {known}")


def check_tasks(info: Info, name: str, first: int, count: int, table: str) -> None:
    """Check that the split `name` has the tasks from `first` to `first` + `count` - 1.

    `table`: the configuration table that contains `first` and `count`, for error messages, such as `[evaluation]`.

    Raises:
        ConfigError: the split is unknown or has too few tasks.
    """
    split = find_split(info, name, f"{table} split")
    if split.size is not None and first + count > split.size:
        raise ConfigError(
            f"{table} first = {first}, count = {count}: split {split.name!r} of {info.name} has "
            f"{counted(split.size, 'task')}; first + count must be at most {split.size}"
        )
