"""Cache of episode starts by task; the next episode of the task is a fork."""

from __future__ import annotations

from collections import OrderedDict

from arlarena.environment.protocols import Episode
from arlarena.proto.env_api import StepResult
from arlarena.proto.trajectory import Task

Start = tuple[Episode, StepResult]


class ResetCache:
    """The starts of the `capacity` tasks that were begun last.

    Groups and evaluation sets play a task many times, and a reset may search or read files. A start depends only on
    its task, so a fork equals a new start.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._starts: OrderedDict[Task, Start] = OrderedDict()

    def fork(self, task: Task) -> Start | None:
        """An episode of a task and its first observation, None for a task that is not kept."""
        start = self._starts.get(task)
        if start is None:
            return None
        self._starts.move_to_end(task)
        return start[0].fork(), start[1]

    def keep(self, start: Start) -> None:
        """Keep a fork of an episode that was just begun, in the place of the one that was used least recently."""
        episode, result = start
        if self._capacity:
            self._starts[episode.task] = (episode.fork(), result)
            if len(self._starts) > self._capacity:
                self._starts.popitem(last=False)
