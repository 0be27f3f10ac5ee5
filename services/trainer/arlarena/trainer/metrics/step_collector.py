"""The metrics of the newest step, for Prometheus (`[trainer] metrics_port`)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "arlarena_trainer"
_NOT_ALLOWED = re.compile(r"[^a-zA-Z0-9_]")


class StepCollector(Collector):
    """Reports the newest step as gauges with the label `run`: the step's number, its time, and each of its metrics.

    A resumed run starts with the step of its checkpoint and without metrics.
    """

    def __init__(self, run: str, step: int) -> None:
        self._run = run
        self._newest: tuple[int, float, Mapping[str, float]] = (step, time.time(), {})

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Replace the reported step."""
        self._newest = step, time.time(), metrics

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics. The threads of the metrics server call this method."""
        step, at, metrics = self._newest
        yield self._gauge("step", "Number of training steps taken.", step)
        yield self._gauge("step_time_seconds", "Unix time of the newest step, or of the start.", at)
        for name, value in metrics.items():
            yield self._gauge(f"last_{_NOT_ALLOWED.sub('_', name)}", f"`{name}` of the newest training step.", value)

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["run"])
        family.add_metric([self._run], value)
        return family
