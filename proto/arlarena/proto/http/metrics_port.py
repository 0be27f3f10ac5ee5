"""Serves Prometheus metrics of a process that has no HTTP server of its own: the trainer and rollout workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.registry import Collector

from arlarena.proto.telemetry import Logger


@contextmanager
def served_metrics(collector: Collector, host: str, port: int | None, log: Logger) -> Iterator[int]:
    """Answer `GET /metrics` with the metrics of `collector` in a thread, while the context lasts. Yields the port.

    `port`: None: serve nothing, and yield 0; 0: a free port. If the port cannot be opened, a warning is logged and 0 is
    yielded, because a run must not end for its metrics.
    """
    if port is None:
        yield 0
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        log.warning("metrics_not_served", host=host, port=port, reason=error.strerror or str(error))
        yield 0
        return
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
