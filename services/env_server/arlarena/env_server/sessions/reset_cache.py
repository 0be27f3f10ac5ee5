"""Episodes at their start, kept by task: whoever plays the same task next begins at once, with a fork."""

from __future__ import annotations

from collections import OrderedDict

from arlarena.environment.protocols import Episode
from arlarena.proto.env_api import StepResult
from arlarena.proto.trajectory import Task

Start = tuple[Episode, StepResult]


class ResetCache:
    """The starts of the `capacity` tasks that were begun last.

    A group plays one task many times and an evaluation set is played again and again, while making a game may mean
    search or reading files. A start depends on its task alone, so a fork of the first one is as good as the second.
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
