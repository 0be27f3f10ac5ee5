"""Tasks by number: `<environment>/<split>/<index>`."""

from __future__ import annotations

from collections.abc import Sequence

from arlarena.env_server.environment import TaskError
from arlarena.proto.env import ResetSpec, Split
from arlarena.proto.trajectory import Task


def indexed_task(name: str, splits: Sequence[Split], spec: ResetSpec) -> Task:
    """The task of `task_id`, of `split` + `index`, or of `split` + `seed`; the first of the first split by default.

    Raises:
        TaskError: an unknown split, an index outside it, or fields that contradict one another.
    """
    sizes = {split.name: split.size for split in splits}
    split = spec.split or splits[0].name
    index = spec.index if spec.index is not None else spec.seed or 0
    if spec.task_id is not None:
        split, index = _parts(name, spec.task_id)
        if spec.split not in (None, split) or spec.index not in (None, index):
            raise TaskError(f"task_id {spec.task_id!r} is another task than split {spec.split!r} index {spec.index}")
    if split not in sizes:
        raise TaskError(f"unknown split {split!r}; known: {', '.join(sizes)}")
    size = sizes[split]
    if size is not None and index >= size:
        raise TaskError(f"split {split!r} has {size} tasks, so the index is at most {size - 1}, not {index}")
    return Task(name, split, index, spec.seed or 0)


def _parts(name: str, task_id: str) -> tuple[str, int]:
    parts = task_id.split("/")
    if len(parts) != 3 or parts[0] != name or not (parts[2].isascii() and parts[2].isdigit()):
        raise TaskError(f"task_id {task_id!r} is not of the form {name}/<split>/<index>, like {name}/train/17")
    return parts[1], int(parts[2])
