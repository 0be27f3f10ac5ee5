"""The tasks of an environment, listed: OpenEnv's task routes.

A split without an end (`size` None in `/v1/info`) counts as `ENDLESS` tasks here, for OpenEnv knows finite ones alone.
"""

from __future__ import annotations

from arlarena.env_server.errors import ApiError, invalid
from arlarena.environment.protocols import EnvironmentFactory, TaskError
from arlarena.proto.env_api import ResetSpec, Split
from arlarena.proto.env_api_tasks import TaskRef

# Indices are used as seeds by some clients, which keep them in 32 signed bits.
ENDLESS = 2**31 - 1


def split_named(factory: EnvironmentFactory, name: str) -> Split:
    """A split.

    Raises:
        ApiError: 422, with the known names.
    """
    splits = {split.name: split for split in factory.info.splits}
    if name not in splits:
        raise invalid(f"unknown split {name!r}; known: {', '.join(splits)}")
    return splits[name]


def count(split: Split) -> int:
    """How many tasks it has."""
    return ENDLESS if split.size is None else split.size


def task_at(factory: EnvironmentFactory, split: Split, index: int) -> TaskRef:
    """One task, by its index.

    Raises:
        ApiError: 400 for an index outside the split, as OpenEnv's server answers.
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
    """Tasks `start` (default 0) to `stop` (exclusive, default the end).

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
