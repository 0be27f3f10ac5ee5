"""Prometheus metrics of an embedded engine. Gauges and engine counters are read at each scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from arlarena.inference.embedded.engine import Engine
from arlarena.inference.embedded.weights.push import WeightPush

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_PREFIX = "arlarena_inference"


class InferenceMetrics:
    """The registry of one server."""

    def __init__(self, engine: Engine, push: WeightPush) -> None:
        self._engine = engine
        self._push = push
        self.registry = CollectorRegistry()
        self.requests = Counter(
            f"{_PREFIX}_requests", "Requests by route and status", ("route", "status"), registry=self.registry
        )
        self.latency = Histogram(
            f"{_PREFIX}_request_seconds",
            "Seconds from the end of a request's body to its response, or to the start of a stream",
            ("route",),
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    def exposition(self) -> bytes:
        """Returns the metrics as the text that Prometheus reads."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yields metrics that are read from the engine and the weight push at each scrape."""
        e, c = self._engine, self._engine.counters
        for name, help_, value in (
            ("requests_running", "Sequences in slots", e.running),
            ("requests_waiting", "Sequences that wait for a slot or for the prefill of their prompt", e.waiting),
            ("slots", "Maximum number of sequences that can run at the same time", e.slots),
            ("cached_prompts", "Token sequences in the prefix cache", e.cached_prompts),
        ):
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", help_, value=value)
        for name, help_, total in (
            ("prompt_tokens", "Prompt tokens of admitted sequences", c.prompt_tokens),
            ("prompt_tokens_computed", "Prompt tokens that were computed and not reused", c.computed_tokens),
            ("generation_tokens", "Sampled tokens", c.generated_tokens),
            ("prefix_cache_queries", "Admitted sequences", c.prompt_queries),
            ("prefix_cache_hits", "Admitted sequences that reused their prompt or a prefix of it", c.prompt_hits),
            ("steps", "Engine steps", c.steps),
            ("busy_seconds", "Seconds spent in engine steps", c.busy_s),
        ):
            yield CounterMetricFamily(f"{_PREFIX}_{name}", help_, value=total)
        pushes = CounterMetricFamily(f"{_PREFIX}_weight_pushes", "Weight pushes by outcome", labels=("outcome",))
        for outcome, count in self._push.outcomes.items():
            pushes.add_metric((outcome,), count)
        yield pushes
        yield InfoMetricFamily(f"{_PREFIX}_weights", "The weights in service", value={"version": e.version})
