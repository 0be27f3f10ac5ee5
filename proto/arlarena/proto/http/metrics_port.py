"""Serves Prometheus metrics of the trainer and of rollout workers. These processes have no other HTTP server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.registry import Collector

from arlarena.proto.telemetry import Logger


@contextmanager
def served_metrics(collector: Collector, host: str, port: int | None, log: Logger) -> Iterator[int]:
    """Serve the metrics of `collector` as `GET /metrics` until the `with` block ends. A thread sends the responses.

    `port`: 0 selects a free port; None serves nothing. Yields the number of the opened port, or 0 if none is open. If
    the port cannot be opened, logs a warning and continues without metrics.
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
