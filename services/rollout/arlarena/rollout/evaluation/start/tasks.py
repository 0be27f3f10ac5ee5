"""Chooses the tasks of an evaluation: either a first index and a number of tasks, or a list of indices."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import Info, Split
from arlarena.proto.text.names import known_names

MAX_TASKS = 1_000_000
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True, slots=True)
class TaskChoice:
    """The options --split, --first, --count and --tasks.

    Attributes:
        split: name of a split; None: the default split (see `split_of`).
        first: index of the first task.
        count: number of tasks; None: all tasks from `first` to the end of the split.
        tasks: list of indices such as "0,7,20-29", instead of `first` and `count`.
    """

    split: str | None = None
    first: int = 0
    count: int | None = None
    tasks: str | None = None

    @property
    def is_default(self) -> bool:
        """Whether all four options have their default values."""
        return self == TaskChoice()

    def check(self) -> None:
        """Check the options without an environment.

        Raises:
            ConfigError: the list of indices is invalid, or `tasks` is given with `first` or `count`.
        """
        if self.tasks is not None:
            parse_indices(self.tasks)
            if self.first or self.count is not None:
                raise ConfigError("--tasks cannot be combined with --first or --count: leave out --first and --count")

    def split_of(self, info: Info) -> Split:
        """Return the chosen split. If `split` is None, return the default split.

        The default is `test`. Without this split, the default is the only evaluation split. Without evaluation splits,
        it is the only split.

        Raises:
            ConfigError: the environment has no split of this name, or `split` is None and there is no default split.
        """
        splits = {split.name: split for split in info.splits}
        if self.split is not None:
            if self.split in splits:
                return splits[self.split]
            raise ConfigError(f"--split {self.split}: {info.name} has no such split; {known_names(self.split, splits)}")
        if "test" in splits:
            return splits["test"]
        others = [split for split in info.splits if split.evaluation] or info.splits
        if len(others) == 1:
            return others[0]
        raise ConfigError(f"{info.name} has no split 'test': give --split, one of {', '.join(splits)}")

    def indices(self, info: Info) -> tuple[int, ...]:
        """Return the indices of the tasks, in the order of play.

        Raises:
            ConfigError: `tasks` is not a list of indices, an index is outside the split, or no task is selected. Or the
                split is unbounded, and neither `count` nor `tasks` is set.
        """
        split = self.split_of(info)
        where = f"split {split.name!r} of {info.name}"
        if self.tasks is not None:
            found = parse_indices(self.tasks)
        elif self.count is None and split.size is None:
            raise ConfigError(f"{where} has no end: give --count or --tasks")
        else:
            end = (split.size or 0) if self.count is None else self.first + self.count
            found = tuple(range(self.first, end))
        if split.size is not None and found and max(found) >= split.size:
            raise ConfigError(
                f"{where} has {split.size} tasks, so the last index is {split.size - 1}, not {max(found)}: "
                "lower --first or --count, or give smaller indices with --tasks"
            )
        if not found:
            raise ConfigError(f"no task of {where} is chosen: raise --count, or lower --first")
        return found


def parse_indices(text: str) -> tuple[int, ...]:
    """Parse a list of indices such as "0,7,20-29". A range includes both its ends.

    Raises:
        ConfigError: the text is not a list of indices, an index occurs twice, or there are more than `MAX_TASKS`.
    """
    found: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise ConfigError(f"--tasks {text!r}: {part.strip()!r} is neither an index nor a range such as 20-29")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"--tasks {text!r}: the range {part.strip()!r} ends before it begins")
        if len(found) + last - first + 1 > MAX_TASKS:
            raise ConfigError(f"--tasks: more than {MAX_TASKS:,} tasks")
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        twice = next(index for index, times in Counter(found).items() if times > 1)
        raise ConfigError(f"--tasks {text!r}: task {twice} is given twice")
    return tuple(found)
