"""A cache of episode starts, by task. The start of an episode is the episode directly after its reset, with the first
observation. Later episodes of the same task are copies (forks) of the cached start.
"""

from __future__ import annotations

from collections import OrderedDict

from arlarena.environment.protocols import Episode
from arlarena.proto.env_api import StepResult
from arlarena.proto.trajectory import Task

Start = tuple[Episode, StepResult]


class ResetCache:
    """Caches an episode start for each of the `capacity` most recently used tasks.

    All episodes of a group have the same task, and all evaluations of a run have the same tasks. Starting an episode
    may take seconds. The start depends only on the task, so a copy is equal to a new start.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._starts: OrderedDict[Task, Start] = OrderedDict()

    def fork(self, task: Task) -> Start | None:
        """Returns a new episode of a task and its first observation, or None if the task is not in the cache."""
        start = self._starts.get(task)
        if start is None:
            return None
        self._starts.move_to_end(task)
        return start[0].fork(), start[1]

    def add(self, start: Start) -> None:
        """Store a copy of an episode that has just started. A full cache drops the least recently used task."""
        episode, result = start
        if self._capacity:
            self._starts[episode.task] = (episode.fork(), result)
            if len(self._starts) > self._capacity:
                self._starts.popitem(last=False)
