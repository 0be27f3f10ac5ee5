"""Which tasks of a split are played: a number of tasks from the first one, or chosen indices."""

from __future__ import annotations

import re
from dataclasses import dataclass

from arlarena.proto.env_api import Info, Split
from arlarena.proto.text.names import nearest
from arlarena.rollout.evaluation.errors import EvaluationError

MAX_TASKS = 1_000_000
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True, slots=True)
class TaskChoice:
    """The options --split, --first, --count and --tasks.

    Attributes:
        split: name of a split; None: `test`, or else the only evaluation split.
        first: index of the first task.
        count: number of tasks; None: all of the split.
        tasks: chosen indices such as "0,7,20-29", instead of `first` and `count`.
    """

    split: str | None = None
    first: int = 0
    count: int | None = None
    tasks: str | None = None

    def split_of(self, info: Info) -> Split:
        """Return the split.

        Raises:
            EvaluationError: the environment has no such split, or none is chosen and there are several.
        """
        splits = {split.name: split for split in info.splits}
        if self.split is not None:
            if self.split in splits:
                return splits[self.split]
            raise EvaluationError(f"{info.name} has no split {self.split!r}; {nearest(self.split, splits)}")
        if "test" in splits:
            return splits["test"]
        others = [split for split in info.splits if split.evaluation] or info.splits
        if len(others) == 1:
            return others[0]
        raise EvaluationError(f"{info.name} has no split 'test': choose --split of {', '.join(splits)}")

    def indices(self, info: Info) -> tuple[int, ...]:
        """Return the indices in the order in which they are played.

        Raises:
            EvaluationError: an index is outside the split, a text is no list of indices, or the split has no end.
        """
        split = self.split_of(info)
        where = f"split {split.name!r} of {info.name}"
        if self.tasks is not None:
            found = parse_indices(self.tasks)
        elif self.count is None and split.size is None:
            raise EvaluationError(f"{where} has no end: give --count or --tasks")
        else:
            end = (split.size or 0) if self.count is None else self.first + self.count
            found = tuple(range(self.first, end))
        if split.size is not None and found and max(found) >= split.size:
            raise EvaluationError(
                f"{where} has {split.size} tasks, so the last index is {split.size - 1}, not {max(found)}: "
                "lower --count, --first or --tasks"
            )
        if not found:
            raise EvaluationError(f"no task of {where} is chosen: raise --count, or lower --first")
        return found


def parse_indices(text: str) -> tuple[int, ...]:
    """Return the indices of a text such as "0,7,20-29", which includes both ends of a range.

    Raises:
        EvaluationError: the text is no list of indices, an index occurs twice, or there are too many.
    """
    found: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise EvaluationError(f"--tasks {text!r}: {part.strip()!r} is neither an index nor a range such as 20-29")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise EvaluationError(f"--tasks {text!r}: the range {part.strip()!r} ends before it begins")
        if len(found) + last - first + 1 > MAX_TASKS:
            raise EvaluationError(f"--tasks: more than {MAX_TASKS:,} tasks")
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        twice = next(index for position, index in enumerate(found) if index in found[:position])
        raise EvaluationError(f"--tasks {text!r}: task {twice} is given twice")
    return tuple(found)
