"""The tasks of an evaluation: grouping of attempts, and the digest of the tasks."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

from arlarena.rollout.evaluation.records import AttemptKey, AttemptRecord

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


def tasks_digest(attempts: Iterable[tuple[str, str]]) -> str:
    """Return the digest of played tasks. Two results are comparable only if their digests are equal.

    `attempts`: for each attempt, the task's id and the key of its content.
    """
    names = sorted(f"{task_id} {content_key}" for task_id, content_key in attempts)
    return hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()


def records_digest(records: Iterable[AttemptRecord]) -> str:
    """Return the digest of the tasks of the scored attempts."""
    return tasks_digest((record.task_id, record.content_key) for record in records if record.scored)
