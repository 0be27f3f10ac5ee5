"""The tasks of an evaluation: grouping of attempts, and the digest of the tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

from arlarena.rollout.evaluation.records import AttemptKey, AttemptRecord
from arlarena.rollout.evaluation.sets.digest import tasks_digest

T = TypeVar("T")
# Environment, split and index.
TaskKey = tuple[str, str, int]


def task_key(key: AttemptKey) -> TaskKey:
    """Return the task of an attempt."""
    return key.environment, key.split, key.index


def results(records: Iterable[AttemptRecord]) -> list[AttemptRecord]:
    """Return the result of each attempt, in the order of the attempts. The last record of an attempt is its result."""
    last = {record.key: record for record in records}
    return [last[key] for key in sorted(last)]


def by_task(records: Iterable[AttemptRecord], value: Callable[[AttemptRecord], T]) -> dict[TaskKey, list[T]]:
    """Return the value of each scored attempt, grouped by task."""
    values: dict[TaskKey, list[T]] = defaultdict(list)
    for record in records:
        if record.scored:
            values[task_key(record.key)].append(value(record))
    return dict(values)


def records_digest(records: Iterable[AttemptRecord]) -> str:
    """Return the digest of the tasks of the scored attempts."""
    return tasks_digest((record.task_id, record.content_key) for record in records if record.scored)
