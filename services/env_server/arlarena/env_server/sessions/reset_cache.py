"""A cache of episode starts by task. The next episode of the same task is a copy (fork) of the cached start."""

from __future__ import annotations

from collections import OrderedDict

from arlarena.environment.protocols import Episode
from arlarena.proto.env_api import StepResult
from arlarena.proto.trajectory import Task

Start = tuple[Episode, StepResult]


class ResetCache:
    """The starts of the `capacity` most recently used tasks.

    Groups and evaluations start the same task many times, and a start may take long. A start depends only on its task,
    so a copy equals a new start.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._starts: OrderedDict[Task, Start] = OrderedDict()

    def fork(self, task: Task) -> Start | None:
        """Returns a new episode of a task and its first observation, or None if the task is not cached."""
        start = self._starts.get(task)
        if start is None:
            return None
        self._starts.move_to_end(task)
        return start[0].fork(), start[1]

    def keep(self, start: Start) -> None:
        """Store a copy of an episode that has just begun. A full cache drops the least recently used start."""
        episode, result = start
        if self._capacity:
            self._starts[episode.task] = (episode.fork(), result)
            if len(self._starts) > self._capacity:
                self._starts.popitem(last=False)
