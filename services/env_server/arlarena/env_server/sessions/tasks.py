"""Lists the tasks of an environment, for OpenEnv's task routes.

OpenEnv has no endless splits. For an endless split (`size` null in `/v1/info`), these routes therefore report
`ENDLESS_SIZE` tasks.
"""

from __future__ import annotations

from arlarena.env_server.errors import ApiError, invalid
from arlarena.environment.protocols import EnvironmentFactory, TaskError
from arlarena.proto.env_api import ResetSpec, Split
from arlarena.proto.env_api_tasks import TaskRef

# The largest signed 32-bit integer, because some clients store a task's index as a seed of this type.
ENDLESS_SIZE = 2**31 - 1


def split_named(factory: EnvironmentFactory, name: str) -> Split:
    """Returns the split `name` of an environment.

    Raises:
        ApiError: 422 if the environment has no such split. The message lists the known splits.
    """
    splits = {split.name: split for split in factory.info.splits}
    if name not in splits:
        raise invalid(f"unknown split {name!r}; known: {', '.join(splits)}")
    return splits[name]


def count(split: Split) -> int:
    """Returns the number of tasks in a split, `ENDLESS_SIZE` for an endless split."""
    return ENDLESS_SIZE if split.size is None else split.size


def task_at(factory: EnvironmentFactory, split: Split, index: int) -> TaskRef:
    """Returns the task with this index in a split.

    Raises:
        ApiError: 400 if the index is outside the split, as in OpenEnv's server. 422 if the environment cannot make the
            task.
    """
    if not 0 <= index < count(split):
        raise ApiError(400, "invalid_index", f"split {split.name!r} has tasks 0 to {count(split) - 1}, not {index}")
    try:
        return TaskRef(factory.task(ResetSpec(split=split.name, index=index)).id, split.name, index)
    except TaskError as error:
        raise invalid(str(error)) from error


def task_range(
    factory: EnvironmentFactory, split: Split, start: int | None, stop: int | None, limit: int
) -> list[TaskRef]:
    """Returns the tasks from `start` (default 0) to `stop` (exclusive; default: the end of the split).

    Raises:
        ApiError: 400 if a bound is outside the split, 422 if the range has more than `limit` tasks.
    """
    first, end = start or 0, count(split) if stop is None else stop
    if not 0 <= first <= end <= count(split):
        message = (
            f"start = {first} and stop = {end} is not a valid range, because split {split.name!r} has {count(split)} "
            "tasks: 0 <= start <= stop <= number of tasks"
        )
        raise ApiError(400, "invalid_index", message)
    if end - first > limit:
        raise invalid(
            f"the range has {end - first} tasks, but one reply has at most {limit} ([environment] max_listed): request "
            "smaller ranges from /task_range"
        )
    return [task_at(factory, split, index) for index in range(first, end)]
