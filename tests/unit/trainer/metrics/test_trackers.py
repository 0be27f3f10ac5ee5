"""Experiment trackers get the metrics of each step, and no failure of a tracker reaches the run."""

import json
import threading
from io import StringIO

import pytest

from arlarena.proto.telemetry import Logger
from arlarena.trainer.metrics import trackers
from arlarena.trainer.metrics.step_collector import StepCollector
from arlarena.trainer.metrics.trackers import TrackedRun, Trackers

METRICS = {"step_name": "text", "loss": 0.5, "kl_share/negative/low": 1, "flag": True, "episodes": 3}
NUMBERS = {"loss": 0.5, "kl_share/negative/low": 1.0, "episodes": 3.0}


@pytest.fixture
def run(tmp_path):
    return TrackedRun("small-1", tmp_path, 0, {"lr": 0.1, "recipe": "sampo"})


@pytest.fixture
def log():
    return Logger("test", "info", StringIO())


def logged(log):
    return [json.loads(line) for line in log._stream.getvalue().splitlines()]


class Fake:
    """A tracker that keeps what it gets."""

    def __init__(self, run, log):
        self.run, self.seen, self.closed = run, [], False

    def add(self, metrics, step):
        self.seen.append((step, metrics))

    def close(self):
        self.closed = True


def test_each_tracker_gets_the_numbers_of_every_step(monkeypatch, run, log):
    made = []
    monkeypatch.setitem(trackers.TRACKERS, "wandb", lambda *given: made.append(Fake(*given)) or made[-1])
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", lambda *given: made.append(Fake(*given)) or made[-1])
    found = Trackers(("wandb", "mlflow", "wandb"), run, log, StepCollector("r", 0))
    for step in (1, 2):
        found.add(METRICS, step)
    found.close()
    assert len(made) == 2
    for tracker in made:
        assert tracker.seen == [(1, NUMBERS), (2, NUMBERS)]
        assert tracker.closed
        assert tracker.run.parameters["recipe"] == "sampo"
    assert logged(log) == []


@pytest.mark.parametrize("error", [RuntimeError("no network"), SystemExit(1), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["start", "add", "close"])
def test_a_failing_tracker_is_logged_and_the_others_continue(monkeypatch, run, log, error, place):
    class Failing(Fake):
        def __init__(self, *given):
            super().__init__(*given)
            if place == "start":
                raise error

        def add(self, metrics, step):
            if place == "add":
                raise error

        def close(self):
            raise error

    made = []
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Failing)
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", lambda *given: made.append(Fake(*given)) or made[-1])
    found = Trackers(("wandb", "mlflow"), run, log, StepCollector("r", 0))
    for step in range(50):
        found.add(METRICS, step)
    found.close()
    assert [step for step, _ in made[0].seen] == list(range(50))
    (line,) = logged(log)
    assert (line["event"], line["tracker"], line["level"]) == ("tracker_disabled", "wandb", "warning")
    assert type(error).__name__ in line["reason"]


def test_a_tracker_that_hangs_does_not_delay_the_run(monkeypatch, run, log):
    release = threading.Event()

    class Hanging(Fake):
        def add(self, metrics, step):
            release.wait(60)

    monkeypatch.setitem(trackers.TRACKERS, "wandb", Hanging)
    monkeypatch.setattr(trackers, "QUEUE_STEPS", 5)
    found = Trackers(("wandb",), run, log, StepCollector("r", 0))
    for step in range(100):
        found.add(METRICS, step)
    found.close(timeout_s=0.05)
    release.set()
    assert [line["event"] for line in logged(log)] == ["tracker_slow", "tracker_not_finished"]


def test_a_missing_package_is_named(monkeypatch, run, log):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", trackers.TRACKERS["wandb"])
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    found = Trackers(("wandb",), run, log, StepCollector("r", 0))
    found.add(METRICS, 1)
    found.close()
    (line,) = logged(log)
    assert "pip install 'arlarena-trainer[wandb]'" in line["reason"]


# ---- the real packages, without a network; these tests need the extras ---------------------------------------------


def test_wandb_offline(monkeypatch, run, log):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    found = Trackers(("wandb",), run, log, StepCollector("r", 0))
    for step in (1, 2, 3):
        found.add(METRICS, step)
    found.close(timeout_s=120)
    assert logged(log) == []
    (file,) = run.directory.glob("wandb/offline-run-*-small-1/*.wandb")
    assert b"kl_share/negative/low" in file.read_bytes()


def test_mlflow_file_store(monkeypatch, run, log):
    pytest.importorskip("mlflow")
    import mlflow

    store = f"sqlite:///{run.directory}/mlflow.db"
    try:
        import sqlalchemy  # noqa: F401
    except ImportError:
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        store = (run.directory / "mlruns").as_uri()
    mlflow.set_tracking_uri(store)
    for start in (0, 2):  # a new run, then a resumed one
        resumed = TrackedRun(run.name, run.directory, start, run.parameters)
        found = Trackers(("mlflow",), resumed, log, StepCollector("r", 0))
        for step in (start + 1, start + 2):
            found.add(METRICS | {"loss": step / 2}, step)
        found.close(timeout_s=120)
    assert logged(log) == []
    client = mlflow.MlflowClient()
    (stored,) = client.search_runs([client.get_experiment_by_name("arlarena").experiment_id])
    assert stored.data.params == {"lr": "0.1", "recipe": "sampo"}
    history = client.get_metric_history(stored.info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]


def test_trackio_local(monkeypatch, run, log):
    monkeypatch.setenv("TRACKIO_DIR", str(run.directory / "trackio"))  # read when the package is imported
    pytest.importorskip("trackio")
    found = Trackers(("trackio",), run, log, StepCollector("r", 0))
    for step in (1, 2):
        found.add(METRICS, step)
    found.close(timeout_s=120)
    assert logged(log) == []
    assert [path for path in (run.directory / "trackio").rglob("*arlarena*") if path.stat().st_size]
