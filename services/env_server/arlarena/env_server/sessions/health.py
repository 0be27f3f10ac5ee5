"""Health of a server: its threads and the environment's dependencies."""

from __future__ import annotations

from arlarena.env_server.sessions.store import Clock
from arlarena.env_server.sessions.thread_pool import WorkPool
from arlarena.environment.protocols import EnvironmentFactory, Resources
from arlarena.proto.env_api import Health


class ServerHealth:
    """Health of one thread pool and one environment. `lost_limit_s`: how long all threads may be lost."""

    def __init__(self, factory: EnvironmentFactory, pool: WorkPool, lost_limit_s: float, clock: Clock) -> None:
        self._factory, self._pool, self._lost_limit_s, self._clock = factory, pool, lost_limit_s, clock
        self._lost_since: float | None = None  # when all threads were first seen to be lost

    def report(self) -> Health:
        """Healthy; degraded while a thread is lost or the environment says so; unhealthy once `exhausted`."""
        details = self._factory.health() if isinstance(self._factory, Resources) else {}
        healthy = details.get("healthy", True) and not self._pool.lost
        if self._pool.lost:
            details = details | self.threads()
        if self.exhausted():
            return Health("unhealthy", details)
        return Health("healthy" if healthy else "degraded", details or None)

    def threads(self) -> dict[str, int]:
        """The threads, and those that are lost."""
        return {"threads": self._pool.size, "threads_lost": self._pool.lost}

    def exhausted(self) -> bool:
        """Whether all threads have been lost for so long that this process should be replaced."""
        if self._pool.free:
            self._lost_since = None
            return False
        if self._lost_since is None:
            self._lost_since = self._clock()
        return self._clock() - self._lost_since >= self._lost_limit_s
