"""report.html and summary.json from made-up run directories."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from rich.console import Console

from arlarena.console.cli.invocation import command_line
from arlarena.console.launch.failures import LaunchError
from arlarena.console.report.html_page import render, write_report
from arlarena.console.report.summary import read_steps, summarise
from arlarena.console.report.tables import kinds_table, scores_table
from arlarena.console.rundir import ExistingRunPolicy, RunDirectory

ENDINGS = [
    ({"ended_by": "steps", "step": 80, "steps": 80}, "finished after all 80 steps"),
    ({"ended_by": "steps", "step": 1, "steps": 1}, "finished after 1 step"),
    (
        {"ended_by": "max_minutes", "step": 53, "steps": 80, "limit": 9.0},
        "ended by max_minutes = 9 after 53 of 80 steps",
    ),
    (
        {"ended_by": "max_environment_steps", "step": 1, "steps": 80, "limit": 1_500_000},
        "ended by max_environment_steps = 1,500,000 after 1 of 80 steps",
    ),
    ({"ended_by": "signal", "step": 3, "steps": 80, "detail": "SIGTERM"}, "stopped by SIGTERM after 3 of 80 steps"),
    (
        {"ended_by": "error", "step": 3, "steps": 80, "detail": "no group arrived"},
        "ended by an error after 3 of 80 steps: no group arrived",
    ),
]

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def eval_set(success: float, **more: Any) -> dict[str, Any]:
    ci95 = [success - 0.05, success + 0.05]
    row = {"optimal_moves": 4, "n": 512, "success": success, "ci95": ci95}
    return {
        "eval_set": {"split": "test", "n": 512, "digest": "d"},
        "temperature": 1.0,
        "success": success,
        "ci95": ci95,
        "format_valid": 0.98,
        "action_valid": 0.9,
        "return": {"mean": 1.0},
        "turns": {"mean": 9.0},
        "by_difficulty": [row],
        **more,
    }


def episode(text: str, success: bool) -> dict[str, Any]:
    turn = {"observation": f"####\n{text}", "response": text, "action": text, "reward": -0.1, "format_valid": False}
    turn |= {"action_valid": False, "no_action": True}
    return {"task": f"sokoban/test/{text}", "success": success, "return": 1, "turns": [turn], "final_observation": text}


def write_run(folder: Path, text: str = "plain") -> RunDirectory:
    run = RunDirectory(folder / "run")
    run.open("demo", ExistingRunPolicy.NEW)
    for label, success in (("before", 0.4), ("after", 0.6)):
        for path, content in (
            (run.eval_set(label), json.dumps(eval_set(success))),
            (run.episodes(label), json.dumps(episode(text, label == "after"))),
        ):
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
    steps = [
        {
            "step": step,
            "success_rate": 0.4 + step / 100,
            "grad_norm": 1.0 / (step + 1),
            "total_trained": step,
            text: 1.0,
        }
        for step in range(20)
    ]
    run.metrics.write_text("".join(json.dumps(step) + "\n" for step in steps) + '{"step": 20, "succ')
    run.config.write_text(f"# {text}\n")
    return run


class Tags(HTMLParser):
    """Collects what a browser would run or load."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.void = {"meta", "br", "hr", "img", "link", "input"}
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_page(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


def test_what_a_model_wrote_is_text_and_never_markup(tmp_path: Path) -> None:
    run = write_run(tmp_path, EVIL)
    page = render(run, summarise(run, EVIL, EVIL, 0))
    tags = read_page(page)
    assert not {"script", "img", "iframe", "link"} & tags.names
    assert not {name for name in tags.attributes if name.startswith("on")}
    assert "&lt;script&gt;alert(1)" in page


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    page = render(run, summarise(run, "sokoban", "sampo", 0))
    assert not {"src", "href", "srcset", "data"} & read_page(page).attributes
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page


def test_the_page_shows_curves_table_and_episodes(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    page = write_report(run, summarise(run, "sokoban", "sampo", 3)).read_text()
    assert page.count("<svg") == 5  # success, gradient norm, difficulty; two others: total_trained, plain
    assert "Gradient norm" in page
    assert "Mean return" not in page  # it was not recorded
    assert "moves of the shortest solution" in page
    assert "sokoban/test/plain" in page
    assert "+20.0" in page
    assert " · malformed · invalid action · no action" in page


def test_an_empty_run_still_gives_a_page(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.open("demo", ExistingRunPolicy.NEW)
    assert "has not finished" in render(run, None)


def test_the_summary_has_the_promised_keys(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.state.wall_s = 12.34
    summary = json.loads(json.dumps(summarise(run, "sokoban", "sampo", 3)))
    assert {"env", "method", "eval_set", "before", "after", "wall_s", "steps", "groups"} <= summary.keys()
    assert summary["eval_set"]["n"] == 512
    assert summary["before"]["success"] == 0.4
    assert summary["after"]["ci95"] == pytest.approx([0.55, 0.65])
    assert {"trained", "filtered", "stale", "dead"} <= summary["groups"].keys()
    assert summary["groups"]["trained"] == 19
    assert summary["steps"] == 19
    assert summary["gain"] == pytest.approx(0.2)
    assert summary["intervals_overlap"] is False
    assert summary["wall_s"] == 12.3


@pytest.mark.parametrize(("before", "after", "overlap"), [(0.4, 0.45, True), (0.4, 0.6, False), (0.6, 0.4, False)])
def test_overlap_of_the_intervals(tmp_path: Path, before: float, after: float, overlap: bool) -> None:
    run = write_run(tmp_path)
    run.eval_set("before").write_text(json.dumps(eval_set(before)))
    run.eval_set("after").write_text(json.dumps(eval_set(after)))
    assert summarise(run, "sokoban", "sampo", 0)["intervals_overlap"] is overlap


def test_results_on_different_sets_are_not_compared(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.eval_set("after").write_text(
        json.dumps(eval_set(0.6) | {"eval_set": {"split": "test", "n": 512, "digest": "other"}})
    )
    with pytest.raises(LaunchError, match="evaluation sets before and after differ"):
        summarise(run, "sokoban", "sampo", 0)


@pytest.mark.parametrize("content", [None, "{", '{"eval_set": {"n": 1}}'])
def test_a_missing_or_empty_evaluation_is_an_error_that_names_it(tmp_path: Path, content: str | None) -> None:
    run = write_run(tmp_path)
    for label in ("before", "after"):
        run.eval_set(label).unlink()
        if content is not None:
            run.eval_set(label).write_text(content)
    with pytest.raises(LaunchError, match=r"eval_sets/before\.json"):
        summarise(run, "sokoban", "sampo", 0)


def test_a_step_that_was_done_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 1}\n{"step": 2, "a": 5}\n{"step"')
    assert read_steps(path) == [{"step": 1, "a": 1}, {"step": 2, "a": 5}]


def test_success_by_kind_of_task_is_shown_where_there_are_kinds(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    for label, success in (("before", 0.4), ("after", 0.6)):
        row = {"kind": "look_at_obj_in_light", "n": 38, "success": success, "ci95": [success - 0.1, success + 0.1]}
        run.eval_set(label).write_text(json.dumps(eval_set(success, by_difficulty=[], by_kind=[row])))
    summary = summarise(run, "alfworld", "sampo", 0)
    page = render(run, summary)
    assert "By kind of task" in page
    assert "look at obj in light" in page
    assert "By difficulty" not in page
    shown = kinds_table(summary)
    assert shown is not None
    assert [list(column.cells) for column in shown.columns] == [
        ["look at obj in light"], ["38"], ["40.0"], ["60.0"], ["50.0 to 70.0"]
    ]  # fmt: skip
    assert "<th>tasks</th>" in page
    assert shown.columns[1].header == "tasks"


def test_several_attempts_a_task_are_not_called_tasks(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    for label in ("before", "after"):
        row = {"kind": "look", "n": 16, "success": 0.5, "ci95": [0.4, 0.6]}
        many = eval_set(0.5, by_kind=[row])
        many["eval_set"]["attempts"] = 4
        run.eval_set(label).write_text(json.dumps(many))
    summary = summarise(run, "alfworld", "sampo", 0)
    shown = kinds_table(summary)
    assert shown is not None
    assert shown.columns[1].header == "attempts"
    assert "<th>attempts</th>" in render(run, summary)


@pytest.mark.parametrize(
    ("training_split", "words"),
    [("train", "512 unseen tasks of split test"), ("test", "512 tasks of the training split test")],
)
def test_tasks_of_the_training_split_are_not_called_unseen(tmp_path: Path, training_split: str, words: str) -> None:
    run = write_run(tmp_path)
    summary = summarise(run, "sokoban", "sampo", 0, training_split)
    assert words in str(scores_table(summary).title)
    assert words in render(run, summary)


def test_the_table_says_how_many_groups_were_filtered(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    summary = summarise(run, "sokoban", "sampo", 0)
    summary["groups"]["filtered"] = 55
    assert "55 groups filtered" in str(scores_table(summary).caption)
    summary["groups"]["filtered"] = 0
    assert "filtered" not in str(scores_table(summary).caption)


def test_the_page_names_date_code_command_and_configuration(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.open("demo", ExistingRunPolicy.NEW, "arlarena up my.toml --set trainer.lr=1e-3")
    run.config.write_text("[trainer]\nlr = 1e-3\n")
    page = render(RunDirectory(run.path), None)
    for text in (
        run.state.started[:10],
        run.state.code[0],
        "arlarena up my.toml --set trainer.lr=1e-3",
        escape(command_line(["up", str(run.config), "--run-dir", "DIRECTORY"], anywhere=True)),
        "lr = 1e-3",
    ):
        assert text in page


@pytest.mark.parametrize("official", [True, False, None])
def test_summary_console_and_page_say_when_tasks_are_not_official(tmp_path: Path, official: bool | None) -> None:
    run = write_run(tmp_path)
    for label, success in (("before", 0.4), ("after", 0.6)):
        data = {"description": "games made by this server", "official": official}
        run.eval_set(label).write_text(json.dumps(eval_set(success, data=data)))
    summary = summarise(run, "alfworld", "sampo", 0)
    assert summary["data"] == {"description": "games made by this server", "official": official}
    warned = "Not comparable with published results: games made by this server"
    assert (warned in render(run, summary)) is (official is False)
    assert (scores_table(summary).caption == warned) is (official is False)


def test_an_environment_without_kinds_has_no_table_of_them(tmp_path: Path) -> None:
    assert kinds_table(summarise(write_run(tmp_path), "sokoban", "sampo", 0)) is None


@pytest.mark.parametrize(("ending", "words"), ENDINGS)
def test_summary_and_report_say_why_training_ended(tmp_path: Path, ending: dict[str, Any], words: str) -> None:
    run = write_run(tmp_path)
    run.training.write_text(json.dumps({"schema": 1} | ending))
    found = summarise(run, "sokoban", "sampo", 0)
    assert {key: found["training"][key] for key in ending} == ending
    console = Console(file=io.StringIO(), width=200)
    console.print(scores_table(found))
    assert isinstance(console.file, io.StringIO)
    assert f"Training: {words}" in console.file.getvalue()
    for summary in (found, None):  # also of a run that has not finished
        assert f"Training: {words}." in render(run, summary)


@pytest.mark.parametrize("text", [None, "", "{", '{"ended_by": "boredom", "step": 1, "steps": 2}'])
def test_training_that_left_no_ending_is_not_said_to_have_ended(tmp_path: Path, text: str | None) -> None:
    run = write_run(tmp_path)
    if text is not None:
        run.training.write_text(text)
    assert summarise(run, "sokoban", "sampo", 0)["training"] is None
    last = read_steps(run.metrics)[-1]["step"]
    assert f"Training: at step {last}; it is running, or its process was killed." in render(run, None)


def test_counts_of_one_are_singular_in_the_report(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.metrics.write_text('{"step": 1, "success_rate": 0.5, "environment_steps": 1}\n')
    for label in ("before", "after"):
        one = eval_set(0.5)
        one["eval_set"]["n"] = 1
        run.eval_set(label).write_text(json.dumps(one))
    page = render(run, summarise(run, "sokoban", "sampo", 0))
    for text in ("<b>1</b><span>training step</span>", "1 environment step in training", "1 unseen task of", "1 turn,"):
        assert text in page
    assert re.findall(r"\b1 (?:\w+ )?(?:steps|tasks|turns|figures|episodes|groups)\b", page) == []
