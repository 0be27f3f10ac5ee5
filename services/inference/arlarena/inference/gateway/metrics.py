"""Prometheus metrics of the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from arlarena.inference.gateway.fleet import Fleet

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_PREFIX = "arlarena_gateway"


class GatewayMetrics:
    """The registry of one gateway."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.registry = CollectorRegistry()
        self.requests = Counter(
            f"{_PREFIX}_requests", "Requests by route and status", ("route", "status"), registry=self.registry
        )
        self.latency = Histogram(
            f"{_PREFIX}_request_seconds",
            "Seconds from the end of a request's body to its response, or to the start of a stream",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.retries = Counter(
            f"{_PREFIX}_retries", "Failed attempts to get a response from a replica", registry=self.registry
        )
        self.registry.register(self)

    def exposition(self) -> bytes:
        """Returns the metrics as the text that Prometheus reads."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics of each replica. Prometheus' client library calls this method at each scrape."""
        flight = GaugeMetricFamily(
            f"{_PREFIX}_requests_in_flight", "Requests that a replica has not answered yet", labels=["replica"]
        )
        ready = GaugeMetricFamily(f"{_PREFIX}_ready", "1 if a replica accepts requests, else 0", labels=["replica"])
        for replica in self._fleet.replicas:
            flight.add_metric([replica.name], replica.in_flight)
            ready.add_metric([replica.name], int(replica.accepts_requests))
        yield flight
        yield ready
