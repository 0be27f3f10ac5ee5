"""What a stage says of how far it is."""

import json

import pytest

from arlarena.trainer import progress
from arlarena.trainer.progress import Progress


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Reports at chosen times; returns what was written."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stage = Progress(tmp_path, "train", 100)

    def report(at, step, **more):
        now[0] = at
        stage.report(step, **more)
        return json.loads((tmp_path / "progress" / "train.jsonl").read_text().splitlines()[-1])

    return report


def test_time_left_follows_from_the_steps(told):
    assert told(5.0, 10)["seconds_left"] is None  # a resumed run: how fast it is must be seen first
    record = told(25.0, 20, success=0.5)
    assert (record["step"], record["steps"], record["success"]) == (20, 100, 0.5)
    assert record["seconds_left"] == pytest.approx(25.0 / 0.1 * 0.8)


def test_a_stage_that_ends_by_another_budget_shows_the_steps_it_will_come_to(told):
    told(0.0, 1, share=0.05)
    record = told(30.0, 4, share=0.2)
    assert (record["step"], record["steps"]) == (4, 20)
    assert record["seconds_left"] == pytest.approx(30.0 / 0.15 * 0.8)
    assert told(31.0, 25, share=1.2)["seconds_left"] == pytest.approx(0.0)
