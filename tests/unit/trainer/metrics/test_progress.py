"""Progress records of a stage."""

import json

import pytest

from arlarena.trainer.metrics import progress
from arlarena.trainer.metrics.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose element is the time in seconds. A test can change it."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def records(run):
    return [json.loads(line) for line in (run / "progress" / "train.jsonl").read_text().splitlines()]


def test_a_record_has_the_configured_steps_and_the_limits(tmp_path, clock):
    stage = Progress(tmp_path, "train", 80)
    stage.report(14, limits={"max_minutes": 0.45}, success=0.5, tokens_per_s=float("nan"))
    assert records(tmp_path) == [
        {"ts": 1000.0, "stage": "train", "step": 14, "steps": 80, "limits": {"max_minutes": 0.45}, "message": "",
         "success": 0.5, "tokens_per_s": None}
    ]  # fmt: skip


def test_too_frequent_records_are_skipped(tmp_path, clock):
    stage = Progress(tmp_path, "train", 80)
    for step, at in enumerate((1000.0, 1001.0, 1002.0, 1003.0, 1004.5)):
        clock[0] = at
        stage.report_every(2.0, step)
    clock[0] = 1004.6
    stage.report(5)
    assert [record["step"] for record in records(tmp_path)] == [0, 2, 4, 5]
