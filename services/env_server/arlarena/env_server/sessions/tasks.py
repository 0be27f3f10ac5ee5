"""Lists of an environment's tasks, for OpenEnv's task routes.

OpenEnv has only finite splits. So an endless split (`size` None in `/v1/info`) has `ENDLESS` tasks here.
"""

from __future__ import annotations

from arlarena.env_server.errors import ApiError, invalid
from arlarena.environment.protocols import EnvironmentFactory, TaskError
from arlarena.proto.env_api import ResetSpec, Split
from arlarena.proto.env_api_tasks import TaskRef

# Some clients use the index of a task as a seed in a signed 32-bit integer.
ENDLESS = 2**31 - 1


def split_named(factory: EnvironmentFactory, name: str) -> Split:
    """Returns the split `name` of an environment.

    Raises:
        ApiError: 422, the environment has no such split. The message lists the known splits.
    """
    splits = {split.name: split for split in factory.info.splits}
    if name not in splits:
        raise invalid(f"unknown split {name!r}; known: {', '.join(splits)}")
    return splits[name]


def count(split: Split) -> int:
    """Returns the number of tasks in a split, `ENDLESS` for an endless split."""
    return ENDLESS if split.size is None else split.size


def task_at(factory: EnvironmentFactory, split: Split, index: int) -> TaskRef:
    """Returns task `index` of a split.

    Raises:
        ApiError: 400 for an index outside the split, as in OpenEnv's server. 422 if the environment refuses the task.
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
        ApiError: 400 for bounds outside the split, 422 for more than `limit` tasks.
    """
    first, end = start or 0, count(split) if stop is None else stop
    if not 0 <= first <= end <= count(split):
        message = (
            f"split {split.name!r} has tasks 0 to {count(split) - 1}: {first} to {end} (exclusive) is no range of it"
        )
        raise ApiError(400, "invalid_index", message)
    if end - first > limit:
        raise invalid(
            f"{end - first} tasks are more than this server lists at a time ({limit}, [environment] max_listed): ask "
            "/task_range for a part"
        )
    return [task_at(factory, split, index) for index in range(first, end)]
