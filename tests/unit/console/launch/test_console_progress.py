"""What a person sees while a run goes on."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from arlarena.console.launch.progress import View
from arlarena.console.stage import Stage, StageProgress, read_progress
from arlarena.proto.text.wording import duration

# Seconds of each training step of the demo, measured on two busy cores.
DEMO_STEPS = (
    26.0, 16.7, 16.7, 18.3, 18.5, 20.1, 18.7, 14.3, 15.7, 15.2, 14.2, 16.2, 16.6, 15.8, 17.9, 18.3, 17.8, 16.0, 16.0,
    16.1, 15.9, 15.2, 12.6, 16.1, 16.4, 17.3, 15.8, 14.9, 14.2, 15.1, 15.3, 14.4, 16.5, 17.3, 14.2, 14.8, 15.5, 16.1,
    17.7, 14.0, 13.6, 15.5, 15.2, 15.8, 15.3, 15.1, 15.5, 15.4, 13.5, 13.7, 14.6, 14.7, 15.1, 18.9, 14.4, 15.4, 15.7,
    15.5, 13.8, 16.3, 15.1, 14.1, 13.9, 16.3, 16.2, 14.4, 16.2, 13.8, 14.2, 14.6, 15.2, 21.2, 16.7, 18.1, 20.0, 18.3,
    20.1, 19.7, 19.3, 15.0,
)  # fmt: skip


def running(*sources: Path, total: int | None = None) -> Stage:
    stage = Stage("train", sources, total)
    stage.begin()
    return stage


def replayed(path: Path, durations: Sequence[float], minutes: float | None = None) -> list[tuple[float, StageProgress]]:
    """The progress at every second of a training with steps of these `durations`, with the seconds truly left."""
    stage, at = running(path), 0.0
    ends = [sum(durations[: step + 1]) for step in range(len(durations))]
    last = next((step for step, end in enumerate(ends, 1) if minutes and end >= 60 * minutes), len(ends))
    shown = []
    for step, seconds in enumerate((0.0, *durations[:last])):
        for _ in range(int(seconds)):
            at += 1
            shown.append((ends[last - 1] - at, read_progress(stage, now=at)))
        at = ends[step - 1] if step else 0.0
        limits = {"max_minutes": at / (60 * minutes)} if minutes else {}
        with path.open("a") as file:
            file.write(json.dumps({"ts": at, "step": step, "steps": len(durations), "limits": limits}) + "\n")
    shown.append((0.0, read_progress(stage, now=at)))
    return shown


def test_figures_of_the_trainers_records(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    stage = running(path)
    record = {"step": 3, "steps": 12, "ts": 30, "success": 0.5, "tokens_per_s": 8120.4, "message": "epoch 1 of 2"}
    path.write_text('{"step": 2, "steps": 12, "ts": 15}\n' + json.dumps(record) + "\n")
    progress = read_progress(stage, now=40)
    assert progress.share == 0.25
    assert progress.as_text() == "3 of 12, epoch 1 of 2, success 50.0 %, 8,120 tokens/s, 2 m 05 s left"


@pytest.mark.parametrize(("minutes", "limit"), [(None, ""), (9.0, "max_minutes"), (60.0, "")])
def test_time_left_falls_and_steps_count_to_the_configured_number(
    tmp_path: Path, minutes: float | None, limit: str
) -> None:
    shown = replayed(tmp_path / "train.jsonl", DEMO_STEPS, minutes)
    assert {progress.steps for _, progress in shown if progress.step is not None} == {80}
    estimates = [(true, progress) for true, progress in shown if progress.seconds_left is not None]
    assert len(estimates) > 0.9 * len(shown) - DEMO_STEPS[0]
    last = float("inf")
    for true, progress in estimates:
        assert progress.seconds_left is not None
        assert progress.limit == limit
        assert progress.seconds_left <= last
        last = progress.seconds_left
        if progress.step and progress.step > 2:
            assert progress.seconds_left == pytest.approx(true, rel=0.2, abs=40)
    assert shown[-1][1].seconds_left is None


def test_time_left_follows_a_change_of_speed(tmp_path: Path) -> None:
    shown = replayed(tmp_path / "train.jsonl", [4.0] * 40 + [16.0] * 60)
    before, after = (next(pair for pair in shown if pair[1].step == step) for step in (40, 65))
    assert before[1].seconds_left == pytest.approx(60 * 4, abs=5)
    assert after[1].seconds_left == pytest.approx(after[0], rel=0.2)


def test_the_limit_that_comes_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    stage = running(path)
    for step in range(5):
        limits = {"max_minutes": 0.02 * step, "max_environment_steps": 0.1 * step}
        with path.open("a") as file:
            file.write(json.dumps({"ts": 10 * step, "step": step, "steps": 80, "limits": limits}) + "\n")
    progress = read_progress(stage, now=40)
    assert (progress.step, progress.steps) == (4, 80)
    assert progress.share == pytest.approx(0.4)
    assert progress.seconds_left == pytest.approx(60)
    assert progress.as_text() == "4 of 80, 1 m 00 s left until max_environment_steps"


def test_time_left_waits_for_a_late_record(tmp_path: Path) -> None:
    path = tmp_path / "evaluate.log"
    stage = running(path)
    lines = [{"ts": 5.0 * number, "finished": 10 * number, "total": 100} for number in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = [read_progress(stage, now=15.0 + late).seconds_left for late in (0, 3, 5, 500)]
    assert found == [pytest.approx(35), pytest.approx(32), pytest.approx(30), pytest.approx(30)]


def test_the_first_of_many_tasks_says_nothing_of_the_time_left(tmp_path: Path) -> None:
    path = tmp_path / "evaluate.log"
    stage = running(path)
    path.write_text('{"ts": 0, "finished": 0, "total": 512}\n{"ts": 8, "finished": 6, "total": 512}\n')
    assert read_progress(stage, now=8).as_text() == "6 of 512"
    with path.open("a") as file:
        file.write('{"ts": 13, "finished": 106, "total": 512}\n')
    assert read_progress(stage, now=13).as_text() == "106 of 512, 20 s left"


def test_a_restarted_process_is_timed_anew(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    stage = running(path)
    records = [(0, 0), (10, 1), (20, 2), (500, 2), (510, 3)]  # killed at 25 s, started again at 500 s
    path.write_text("".join(json.dumps({"ts": at, "step": step, "steps": 5}) + "\n" for at, step in records))
    assert read_progress(stage, now=510).seconds_left == pytest.approx(20)


def test_sources_that_count_for_themselves_are_added_up(tmp_path: Path) -> None:
    first, second = tmp_path / "demonstrations.log", tmp_path / "validation.log"
    stage = running(first, second, total=308)
    first.write_text('{"ts": 0, "finished": 0, "total": 180}\nplain text\n{"ts": 18, "finished": 180, "total": 180}\n')
    assert read_progress(stage, now=18).as_text() == "180 of 308, demonstrations, 13 s left"
    assert read_progress(stage, now=500).as_text() == "180 of 308, demonstrations"
    second.write_text('{"ts": 20, "finished": 128, "total": 128}\n{"level":"info"}\n')
    assert read_progress(stage, now=20).as_text() == "308 of 308, validation"


def test_lines_of_an_earlier_attempt_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"step": 9, "steps": 12}\n')
    stage = running(path)
    assert read_progress(stage).as_text() == ""
    with path.open("a") as file:
        file.write('{"step": 1, "steps": 12}\n')
    assert read_progress(stage).step == 1


def in_step(folder: Path, began: float, **fields: object) -> Stage:
    """A training whose step goes on since `began`, seconds after the stage's begin."""
    stage = Stage("train", (folder / "train.jsonl",), step_file=folder / "train-step.json")
    stage.begin()
    record = {"ts": 0.0, "began": stage.began_at + began, "doing": "collecting", "groups": 7} | fields
    (folder / "train-step.json").write_text(json.dumps(record))
    return stage


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"step": 1, "groups_wanted": 24, "episodes": 96},
            "0 of 80, step 1: 7 of 24 needed groups, 96 episodes, 31 s",
        ),
        ({"step": 1, "groups": 0, "groups_wanted": 1}, "0 of 80, step 1: 0 of 1 needed group, 0 episodes, 31 s"),
        (
            {"step": 1, "groups": 3, "groups_wanted": 24, "episodes": 464, "filtered": 55, "unsolved": 55},
            "0 of 80, step 1: 3 of 24 needed groups, 55 filtered out (no episode succeeded), 464 episodes, 31 s",
        ),
        (
            {"step": 1, "groups": 3, "groups_wanted": 24, "episodes": 464, "filtered": 55, "unsolved": 40},
            "0 of 80, step 1: 3 of 24 needed groups, 55 filtered out (in 40 of them no episode succeeded), "
            "464 episodes, 31 s",
        ),
        (
            {"step": 1, "groups": 3, "groups_wanted": 24, "episodes": 24, "filtered": 1},
            "0 of 80, step 1: 3 of 24 needed groups, 1 filtered out, 24 episodes, 31 s",
        ),
        ({"step": 1, "doing": "learning", "groups": 1}, "0 of 80, step 1: training on 1 group, 31 s"),
    ],
)
def test_the_step_that_goes_on_is_shown_before_the_first_one_ends(
    tmp_path: Path, fields: dict[str, object], words: str
) -> None:
    stage = in_step(tmp_path, 2.0, **fields)
    (tmp_path / "train.jsonl").write_text('{"step": 0, "steps": 80}\n')
    assert read_progress(stage, now=stage.began_at + 33).as_text() == words


def test_a_step_that_has_ended_or_belongs_to_an_earlier_attempt_is_not_shown(tmp_path: Path) -> None:
    stage = in_step(tmp_path, 2.0, step=3)
    (tmp_path / "train.jsonl").write_text('{"step": 3, "steps": 80}\n')
    assert read_progress(stage).as_text() == "3 of 80"
    stage = in_step(tmp_path, -60.0, step=1)
    assert read_progress(stage).as_text() == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": "x"}', '{"step": 1, "doing": "sleeping", "began": 9e9}'])
def test_an_odd_record_of_the_step_is_passed_over(tmp_path: Path, text: str) -> None:
    stage = in_step(tmp_path, 2.0, step=1)
    (tmp_path / "train-step.json").write_text(text)
    assert read_progress(stage).as_text() == ""


def test_plain_output_shows_a_long_step_once_it_has_been_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = [1000.0], io.StringIO()
    monkeypatch.setattr("arlarena.console.launch.progress.time.monotonic", lambda: clock[0])
    stage = Stage("train", (tmp_path / "train.jsonl",), step_file=tmp_path / "train-step.json")
    with View("title", [stage], dict, console=Console(file=out, width=100), plain_interval_s=5.0) as view:
        view.begin("train")
        record = {"step": 1, "doing": "collecting", "began": stage.began_at, "groups": 2, "groups_wanted": 24}
        (tmp_path / "train-step.json").write_text(json.dumps(record))
        said = []
        for _ in range(9):  # 45 s
            clock[0] += 5.0
            view.tick()
            said.append(out.getvalue().count("step 1: 2 of 24 needed groups"))
    assert said == [0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_plain_output_shows_life_before_a_stage_has_any_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, out = [1000.0], io.StringIO()
    monkeypatch.setattr("arlarena.console.launch.progress.time.monotonic", lambda: clock[0])
    stages = [Stage("inference"), Stage("evaluate", (tmp_path / "evaluate.log",))]
    with View("title", stages, dict, console=Console(file=out, width=100), plain_interval_s=5.0) as view:
        view.begin("inference")
        for _ in range(7):  # 35 s
            clock[0] += 5.0
            view.tick()
        view.end("inference")
        view.begin("evaluate")
        (tmp_path / "evaluate.log").write_text('{"ts": 0, "finished": 0, "total": 4}\n')
        for _ in range(4):
            clock[0] += 5.0
            view.tick()
    lines = [line.partition("] ")[2] for line in out.getvalue().splitlines()[1:]]
    assert lines == [
        "inference …", "inference: 15 s so far", "inference: 30 s so far", "inference: done after 35 s",
        "evaluate …", "evaluate: 0 of 4", "evaluate: 0 of 4, 20 s so far",
    ]  # fmt: skip


@pytest.mark.parametrize("line", ['{"step": "x"}', '{"step": true}', '{"step": null, "steps": 0}', "{", "[1]", ""])
def test_odd_lines_are_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train.jsonl"
    stage = running(path)
    path.write_text(line + "\n")
    assert read_progress(stage).as_text() == ""


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
    assert "report: finished earlier" in said
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
