"""Prometheus metrics of the route /metrics. Each server object has its own registry, so tests do not share counters."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Seconds. A step takes about 50 us, a reset from 0.1 ms to several seconds.
_BUCKETS = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2e-2, 0.1, 0.5, 2.0, 10.0, 60.0)


class EnvServerMetrics:
    """The metrics of one server. All names begin with `arlarena_env_`."""

    def __init__(self, environment: str) -> None:
        self.registry = CollectorRegistry()

        def prefixed(name: str) -> str:
            return f"arlarena_env_{name}"

        self.sessions = Gauge(prefixed("sessions"), "Open sessions", registry=self.registry)
        self.capacity = Gauge(prefixed("capacity"), "Maximum number of sessions", registry=self.registry)
        self.threads = Gauge(prefixed("threads"), "Threads for resets and blocking steps", registry=self.registry)
        self.lost_threads = Gauge(
            prefixed("threads_lost"), "Threads that still run work that has timed out", registry=self.registry
        )
        self.expired = Counter(prefixed("sessions_expired"), "Sessions that expired", registry=self.registry)
        self.repeated = Counter(
            prefixed("steps_repeated"), "Requests that repeat the last step", registry=self.registry
        )
        self.episodes = Counter(prefixed("episodes"), "Episodes that ended", ["outcome"], registry=self.registry)
        self.requests = Counter(prefixed("requests"), "HTTP requests", ["route", "status"], registry=self.registry)
        self.errors = Counter(
            prefixed("errors"), "Errors, including those of batch items", ["code"], registry=self.registry
        )
        self.step_seconds = Histogram(
            prefixed("step_seconds"), "Duration of one step", buckets=_BUCKETS, registry=self.registry
        )
        self.reset_seconds = Histogram(
            prefixed("reset_seconds"),
            "Duration of one reset, with the wait for a thread",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        Gauge(
            prefixed("info"), "Name of the environment, as a label; always 1", ["name"], registry=self.registry
        ).labels(environment).set(1)
