"""Tasks with a split and an index. Their ids are `<environment>/<split>/<index>`."""

from __future__ import annotations

from collections.abc import Sequence

from arlarena.environment.protocols import TaskError
from arlarena.proto.env_api import LARGEST_INDEX, ResetSpec, Split
from arlarena.proto.trajectory import Task

SHOWN_CHARS = 80  # maximum characters of a task_id in an error message


def indexed_task(name: str, splits: Sequence[Split], spec: ResetSpec) -> Task:
    """Return the task that a reset request selects by `task_id`, or by `split` and `index`.

    `split` defaults to the first split. `index` defaults to the seed, or to 0 without a seed.

    Raises:
        TaskError: the split is unknown, the index is out of range, or the fields contradict each other.
    """
    sizes = {split.name: split.size for split in splits}
    split = spec.split or splits[0].name
    index = spec.index if spec.index is not None else spec.seed or 0
    if spec.task_id is not None:
        split, index = _parse_task_id(name, spec.task_id)
        if spec.split not in (None, split) or spec.index not in (None, index):
            fields = {"split": spec.split, "index": spec.index}
            given = " ".join(f"{name} {value!r}" for name, value in fields.items() if value is not None)
            raise TaskError(f"task_id {spec.task_id!r} contradicts {given}: send only task_id, or only split and index")
    if split not in sizes:
        raise TaskError(f"unknown split {split!r}; known: {', '.join(sizes)}")
    size = sizes[split]
    if size is not None and index >= size:
        is_seed = spec.index is None and spec.task_id is None
        subject = "the seed is used as the index, so it" if is_seed else "the index"
        raise TaskError(f"split {split!r} has {size} tasks; {subject} must be at most {size - 1}, but it is {index}")
    return Task(name, split, index, spec.seed or 0)


def index_of(text: str) -> int | None:
    """Parse an index. Return None if the text is not a number, or if the number exceeds `LARGEST_INDEX`."""
    if not (text.isascii() and text.isdigit()) or len(text.lstrip("0")) > len(str(LARGEST_INDEX)):
        return None
    index = int(text.lstrip("0") or "0")
    return index if index <= LARGEST_INDEX else None


def _parse_task_id(name: str, task_id: str) -> tuple[str, int]:
    parts = task_id.split("/")
    index = index_of(parts[-1])
    if len(parts) != 3 or parts[0] != name or index is None:
        shown = task_id if len(task_id) <= SHOWN_CHARS else f"{task_id[:SHOWN_CHARS]}…"
        raise TaskError(
            f"task_id {shown!r} must have the form {name}/<split>/<index>, such as {name}/train/17, and the index must "
            f"be at most {LARGEST_INDEX}"
        )
    return parts[1], index
