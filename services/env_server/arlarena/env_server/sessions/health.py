"""The health of a server, from its threads and the environment's dependencies."""

from __future__ import annotations

from arlarena.env_server.sessions.store import Clock
from arlarena.env_server.sessions.thread_pool import WorkPool
from arlarena.environment.protocols import EnvironmentFactory, Resources
from arlarena.proto.env_api import Health


class ServerHealth:
    """The health of one thread pool and one environment. A thread is lost while it runs work whose caller has stopped
    waiting. `lost_limit_s`: after how many seconds with all threads lost the server is unhealthy.
    """

    def __init__(self, factory: EnvironmentFactory, pool: WorkPool, lost_limit_s: float, clock: Clock) -> None:
        self._factory, self._pool, self._lost_limit_s, self._clock = factory, pool, lost_limit_s, clock
        self._lost_since: float | None = None  # when all threads were first seen to be lost

    def report(self) -> Health:
        """Returns the health. "unhealthy": `exhausted` is True. "degraded": a thread is lost or the environment reports
        a fault. "healthy": otherwise.
        """
        details = self._factory.health() if isinstance(self._factory, Resources) else {}
        healthy = details.get("healthy", True) and not self._pool.lost
        if self._pool.lost:
            details = details | self.threads()
        if self.exhausted():
            return Health("unhealthy", details)
        return Health("healthy" if healthy else "degraded", details or None)

    def threads(self) -> dict[str, int]:
        """Returns the number of threads and the number of lost threads."""
        return {"threads": self._pool.size, "threads_lost": self._pool.lost}

    def exhausted(self) -> bool:
        """True if all threads have been lost for `lost_limit_s` seconds. This process should then be restarted."""
        if self._pool.free:
            self._lost_since = None
            return False
        if self._lost_since is None:
            self._lost_since = self._clock()
        return self._clock() - self._lost_since >= self._lost_limit_s
