"""Messages of the routes that list the tasks of an environment. See `arlarena.proto.env_api`."""

from __future__ import annotations

from typing import Literal

import msgspec


class TaskRef(msgspec.Struct):
    """Identifies a task: by `task_id`, and by `split` and `index`. A reset request accepts these fields."""

    task_id: str
    split: str
    index: int


class SplitRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /{env}/tasks` and `/{env}/num_tasks`."""

    split: str


class TaskRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /{env}/task`."""

    split: str
    index: int


class TaskRangeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /{env}/task_range`: tasks from `start` (default 0) to `stop` (exclusive; default: the end of the split)."""

    split: str
    start: int | None = None
    stop: int | None = None


class TaskList(msgspec.Struct):
    """All tasks of a split, in order."""

    tasks: list[TaskRef]
    env_name: str


class TaskCount(msgspec.Struct):
    """The number of tasks of a split."""

    num_tasks: int


class TaskReply(msgspec.Struct):
    """One task."""

    task: TaskRef


class TaskRange(msgspec.Struct):
    """A range of tasks of a split, in order."""

    tasks: list[TaskRef]


class SplitRef(msgspec.Struct):
    """A split in OpenEnv's form."""

    name: str
    type: Literal["train", "validation", "test"]
