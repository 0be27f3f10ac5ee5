"""The counters of a worker, for Prometheus (`[rollout] metrics_port`)."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from arlarena.rollout.worker import Worker

OUTCOMES = ("completed", "duplicates", "failed", "lost", "released")


class WorkerCollector(Collector):
    """Reports `worker.WorkerCounters`, with the labels `run` and `worker`."""

    def __init__(self, run: str, worker: Worker) -> None:
        self._labels, self._worker = [run, worker.name], worker

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics. The threads of the metrics server call this method."""
        counters = self._worker.counters
        groups = CounterMetricFamily(
            "arlarena_rollout_groups", "Groups, by outcome (see `WorkerCounters`).", labels=["run", "worker", "outcome"]
        )
        for outcome in OUTCOMES:
            groups.add_metric([*self._labels, outcome], getattr(counters, outcome))
        yield groups
        for name in ("episodes", "turns", "response_tokens"):
            family = CounterMetricFamily(
                f"arlarena_rollout_{name}", f"{name.replace('_', ' ').capitalize()} of finished groups.",
                labels=["run", "worker"],
            )  # fmt: skip
            family.add_metric(self._labels, getattr(counters, name))
            yield family
        playing = GaugeMetricFamily(
            "arlarena_rollout_groups_playing", "Groups that the worker plays now.", labels=["run", "worker"]
        )
        playing.add_metric(self._labels, self._worker.playing)
        yield playing
