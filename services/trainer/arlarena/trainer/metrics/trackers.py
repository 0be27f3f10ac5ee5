"""Sends the metrics of each step to experiment trackers: TensorBoard, Weights & Biases, MLflow and trackio.

`[trainer] trackers` names the trackers. Each tracker runs in its own thread, so that a slow server does not slow down
training. If a tracker fails, a warning is logged, and the run continues without that tracker.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from arlarena.proto.telemetry import Logger
from arlarena.trainer.metrics.step_collector import StepCollector
from arlarena.trainer.metrics.tensorboard import TensorBoardWriter

# Maximum number of steps that wait for a slow tracker. While the queue is full, new steps are dropped.
QUEUE_STEPS = 10_000
# Maximum time that the end of a run waits for a tracker, in seconds.
CLOSE_TIMEOUT_S = 30.0
PROJECT = "arlarena"


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """The data of a run that a tracker gets. `step`: the step of the checkpoint that the run resumes from, else 0."""

    name: str
    directory: Path
    step: int
    parameters: Mapping[str, Any]


class Tracker(Protocol):
    """Receives the metrics of a run. If a method raises an exception, the tracker is not called again."""

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Send the metrics of a step."""
        ...

    def close(self) -> None:
        """Send the remaining metrics, and mark the run as finished."""
        ...


class _Wandb:
    def __init__(self, run: TrackedRun, _log: Logger) -> None:
        import wandb

        self._run = wandb.init(
            project=PROJECT, id=run.name, name=run.name, resume="allow", dir=str(run.directory),
            config=dict(run.parameters),
        )  # fmt: skip

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, run: TrackedRun, _log: Logger) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        name = run.name.replace("'", "")
        runs = self._client.search_runs([experiment], f"attributes.run_name = '{name}'", max_results=1)
        started = runs[0] if runs and run.step else self._client.create_run(experiment, run_name=name)
        self._id = started.info.run_id
        if not run.step:
            for key, value in run.parameters.items():
                self._client.log_param(self._id, key, value)

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        import time

        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._id, [Metric(name, value, now, step) for name, value in metrics.items()])

    def close(self) -> None:
        self._client.set_terminated(self._id)


class _Trackio:
    def __init__(self, run: TrackedRun, _log: Logger) -> None:
        import trackio

        self._run = trackio.init(project=PROJECT, name=run.name, resume="allow", config=dict(run.parameters))

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def _tensorboard(run: TrackedRun, log: Logger) -> Tracker:
    return TensorBoardWriter(run.directory / "tensorboard", run.step, log)


TRACKERS: dict[str, Callable[[TrackedRun, Logger], Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _Wandb,
    "mlflow": _Mlflow,
    "trackio": _Trackio,
}


class _TrackerThread:
    """Runs one tracker in a thread. An exception of the tracker is logged and ends the thread."""

    def __init__(self, name: str, run: TrackedRun, log: Logger) -> None:
        self._name, self._run, self._log = name, run, log
        self._steps: queue.Queue[tuple[dict[str, float], int] | None] = queue.Queue(QUEUE_STEPS)
        self._stopped = self._dropped = False
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def add(self, metrics: dict[str, float], step: int) -> None:
        if self._stopped:
            return
        try:
            self._steps.put_nowait((metrics, step))
        except queue.Full:
            if not self._dropped:
                self._log.warning("tracker_slow", tracker=self._name, step=step, waiting=QUEUE_STEPS)
            self._dropped = True

    def close(self, timeout_s: float) -> None:
        if not self._stopped:
            with contextlib.suppress(queue.Full):
                self._steps.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._log.warning("tracker_not_finished", tracker=self._name, timeout_s=timeout_s)

    def _work(self) -> None:
        try:
            tracker = TRACKERS[self._name](self._run, self._log)
            while (item := self._steps.get()) is not None:
                tracker.add(*item)
            tracker.close()
        except ImportError as error:
            reason = f"{error}; install it with: pip install 'arlarena-trainer[{self._name}]'"
            self._log.warning("tracker_disabled", tracker=self._name, reason=reason)
        except BaseException as error:  # no error of a tracker may end the run, not even SystemExit
            self._log.warning("tracker_disabled", tracker=self._name, reason=f"{type(error).__name__}: {error}")
        finally:
            self._stopped = True


class Trackers:
    """The trackers of a run."""

    def __init__(self, names: tuple[str, ...], run: TrackedRun, log: Logger, collector: StepCollector) -> None:
        """Start one thread per tracker. `names`: keys of `TRACKERS`. `collector`: gets the metrics for Prometheus."""
        self._collector = collector
        self._threads = [_TrackerThread(name, run, log) for name in dict.fromkeys(names)]

    def add(self, metrics: Mapping[str, Any], step: int) -> None:
        """Queue the values of `metrics` that are numbers. Returns at once."""
        numbers = {
            name: float(value)
            for name, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._collector.add(numbers, step)
        for thread in self._threads:
            thread.add(numbers, step)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Wait until the trackers have sent all steps.

        For each tracker, wait at most `timeout_s` seconds for space in its queue, and then at most `timeout_s` seconds
        for the end of its thread.
        """
        for thread in self._threads:
            thread.close(timeout_s)
