"""The health of a server. It depends on the server's threads and on the dependencies of the environment."""

from __future__ import annotations

from arlarena.env_server.sessions.store import Clock
from arlarena.env_server.sessions.thread_pool import WorkPool
from arlarena.environment.protocols import EnvironmentFactory, Resources
from arlarena.proto.env_api import Health


class ServerHealth:
    """The health of one thread pool and one environment. A thread is lost while it runs work without a waiting caller,
    usually after a timeout. `lost_threads_timeout_s`: if all threads have been lost for this number of seconds, the
    server is unhealthy.
    """

    def __init__(
        self, factory: EnvironmentFactory, pool: WorkPool, lost_threads_timeout_s: float, clock: Clock
    ) -> None:
        self._factory, self._pool, self._clock = factory, pool, clock
        self._lost_threads_timeout_s = lost_threads_timeout_s
        self._lost_since: float | None = None  # time of the first check at which all threads were lost

    def report(self) -> Health:
        """Returns the health. "unhealthy": `needs_restart` is True. "degraded": a thread is lost, or the environment
        reports a fault. "healthy": otherwise.
        """
        details = self._factory.health() if isinstance(self._factory, Resources) else {}
        healthy = details.get("healthy", True) and not self._pool.lost_count
        if self._pool.lost_count:
            details = details | self.threads()
        if self.needs_restart():
            return Health("unhealthy", details)
        return Health("healthy" if healthy else "degraded", details or None)

    def threads(self) -> dict[str, int]:
        """Returns the number of threads and the number of lost threads."""
        return {"threads": self._pool.size, "threads_lost": self._pool.lost_count}

    def needs_restart(self) -> bool:
        """True if all threads have been lost for `lost_threads_timeout_s` seconds. The time starts at the first call
        that finds all threads lost, so this method must be called regularly.
        """
        if self._pool.free:
            self._lost_since = None
            return False
        if self._lost_since is None:
            self._lost_since = self._clock()
        return self._clock() - self._lost_since >= self._lost_threads_timeout_s
