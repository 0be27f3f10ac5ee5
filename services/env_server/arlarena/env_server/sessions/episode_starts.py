"""Starts episodes. The start of an episode is the episode directly after its reset, with the first observation. If the
reset cache has the start of a task, the new episode is a copy (fork) of this start. Otherwise the environment starts
the episode in a thread.
"""

from __future__ import annotations

import time

from arlarena.env_server.errors import invalid
from arlarena.env_server.sessions.blocking_calls import run_in_pool
from arlarena.env_server.sessions.metrics import EnvServerMetrics
from arlarena.env_server.sessions.reset_cache import ResetCache, Start
from arlarena.env_server.sessions.result_check import check_result
from arlarena.env_server.sessions.thread_pool import WorkPool
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.environment.protocols import EnvironmentFactory, TaskError
from arlarena.proto.env_api import ResetSpec
from arlarena.proto.trajectory import Task


class EpisodeStarts:
    """Starts episodes of one environment. The caller of `start` puts the new episode into a session."""

    def __init__(
        self, factory: EnvironmentFactory, settings: EnvironmentSettings, metrics: EnvServerMetrics, pool: WorkPool
    ) -> None:
        self._factory, self._settings, self._metrics, self._pool = factory, settings, metrics, pool
        self._reset_cache = ResetCache(settings.reset_cache_size)

    async def start(self, spec: ResetSpec) -> Start:
        """Returns a new episode and its first observation.

        Raises:
            ApiError: 422 if the task does not exist, 504 after `reset_timeout_s` seconds. `run_in_pool` lists the other
                errors.
        """
        task = self.task(spec)
        return self.from_cache(task) or await self._start_in_thread(task)

    def task(self, spec: ResetSpec) -> Task:
        """Returns the task that a reset request names.

        Raises:
            ApiError: 422 if the task does not exist.
        """
        try:
            return self._factory.task(spec)
        except TaskError as error:
            raise invalid(str(error)) from error

    def from_cache(self, task: Task) -> Start | None:
        """Returns a copy of the cached start of a task, or None if the task is not in the cache."""
        begun = time.perf_counter()
        start = self._reset_cache.fork(task)
        if start is None:
            return None
        self._metrics.reset_seconds.observe(time.perf_counter() - begun)
        return start

    async def _start_in_thread(self, task: Task) -> Start:
        """Start an episode in a thread. If the environment is non-blocking, put the start into the reset cache.

        Raises:
            ApiError: as in `start`.
        """
        begun = time.perf_counter()

        def work() -> Start:
            episode = self._factory.start(task)
            return episode, check_result(task.id, episode.observe(), stepped=False)

        try:
            operation, limit_s = f"the reset of {task.id}", self._settings.reset_timeout_s
            start = await run_in_pool(self._pool, self._settings, operation, limit_s, work)
        except TaskError as error:
            raise invalid(str(error)) from error
        finally:
            self._metrics.reset_seconds.observe(time.perf_counter() - begun)
        if not self._factory.blocking:
            self._reset_cache.add(start)
        return start
