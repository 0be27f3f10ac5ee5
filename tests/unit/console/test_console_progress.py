"""What a person sees while a run goes on."""

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from arlarena.console.progress import Stage, View, duration, read_figures


def running(*sources: Path) -> Stage:
    stage = Stage("train", sources)
    stage.begin()
    return stage


def test_figures_of_the_trainers_lines(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    stage = running(path)
    record = {"stage": "train", "step": 3, "steps": 12, "success": 0.5, "tokens_per_s": 8120.4, "seconds_left": 125}
    path.write_text('{"step": 1, "steps": 12}\n' + json.dumps(record) + "\n")
    figures = read_figures(stage)
    assert figures.share == 0.25
    assert figures.words() == "3 of 12, success 50.0 %, 8,120 tokens/s, 2 m 05 s left"


def test_figures_of_a_log_and_time_left_by_the_share_done(tmp_path: Path) -> None:
    log = tmp_path / "evaluate.log"
    stage = running(tmp_path / "none.jsonl", log)
    stage.began = time.monotonic() - 30
    log.write_text('{"level":"info","event":"evaluating","finished":128,"total":512}\nplain text\n{"level":"info"}\n')
    figures = read_figures(stage)
    assert (figures.step, figures.steps) == (128, 512)
    assert figures.seconds_left == pytest.approx(90, abs=1)


def test_lines_of_an_earlier_attempt_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"step": 9, "steps": 12}\n')
    stage = running(path)
    assert read_figures(stage).words() == ""
    with path.open("a") as file:
        file.write('{"step": 1, "steps": 12}\n')
    assert read_figures(stage).step == 1


@pytest.mark.parametrize("line", ['{"step": "x"}', '{"step": true}', '{"step": null, "steps": 0}', "{", "[1]", ""])
def test_odd_lines_are_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train.jsonl"
    stage = running(path)
    path.write_text(line + "\n")
    assert read_figures(stage).words() == ""


def test_plain_output_says_a_thing_once(tmp_path: Path) -> None:
    path, out = tmp_path / "train.jsonl", io.StringIO()
    stages = [Stage("train", (path,)), Stage("report")]
    with View("title", stages, dict, console=Console(file=out, width=100), plain_interval_s=0.0) as view:
        view.begin("train")
        path.write_text('{"step": 1, "steps": 2, "seconds_left": 3}\n')
        view.tick()
        view.tick()
        view.notice("[inference] died; restart 1")
        view.end("train", "done", "sampo")
        view.end("report", "skipped")
    said = out.getvalue()
    assert said.count("1 of 2") == 1
    assert "[inference] died; restart 1" in said  # brackets are text, not markup
    assert "train: done after" in said
    assert "report: done before" in said
    assert "\x1b" not in said


def test_the_live_table_shows_stages_and_services() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, height=30)
    with View("title", [Stage("clone"), Stage("train")], lambda: {"inference": "up"}, console=console) as view:
        view.begin("clone")
        view.end("clone", "done", "10 steps")
        view.begin("train")
    said = out.getvalue()
    for text in ("title", "clone", "10 steps", "train", "inference up"):
        assert text in said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59, "59 s"),
        (125, "2 m 05 s"),
        (3600, "1 h 00 m"),
        (7265, "2 h 01 m"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
