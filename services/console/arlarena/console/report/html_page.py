"""`report.html`: one self-contained page about a run. It shows the data of all finished stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from arlarena.console.cli.invocation import command_line
from arlarena.console.report.charts import Records, class_chart, cloning_charts, other_charts, training_charts
from arlarena.console.report.ending import describe_ending, read_ending
from arlarena.console.report.summary import (
    count_unit,
    data_warning,
    describe_eval_set,
    read_json,
    read_records,
    read_steps,
)
from arlarena.console.report.tables import SCORE_COLUMNS, ClassRow, Column, class_columns, class_rows
from arlarena.console.rundir import RunDirectory
from arlarena.proto.atomic_files import write_text
from arlarena.proto.text.page_style import page_style
from arlarena.proto.text.wording import counted, duration, percent

MAX_EPISODES = 4


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Success rates by difficulty or by kind of the tasks. `heading`: title of the first column."""

    title: str
    heading: str
    columns: tuple[Column, ...]
    rows: list[ClassRow]
    chart: Markup | None


def breakdowns(before: dict[str, Any], after: dict[str, Any]) -> list[Breakdown]:
    """Returns the success rates of the evaluations by length of the shortest solution and by kind of task.

    A breakdown is left out if the environment does not define difficulties or kinds.
    """
    columns, breakdowns = class_columns(count_unit(before or after)), []
    for name, key, title, heading in (
        ("by_difficulty", "optimal_moves", "By difficulty", "moves of the shortest solution"),
        ("by_kind", "kind", "By kind of task", "kind"),
    ):
        if rows := class_rows(before, after, name, key):
            chart = class_chart(f"Success by {heading} (95 % intervals)", rows)
            breakdowns.append(Breakdown(title, heading, columns, rows, chart))
    return breakdowns


def chosen_episodes(before: Records, after: Records) -> list[dict[str, Any]]:
    """Returns pairs of episodes of the same task, before and after training.

    Order: two tasks that are solved only after training, one task that is solved before and after, one task that is not
    solved after training, then other tasks. There are at most `MAX_EPISODES` pairs.
    """
    old = {episode.get("task"): episode for episode in before}
    pairs = [
        {"task": episode.get("task"), "before": old.get(episode.get("task")), "after": episode} for episode in after
    ]

    def kind(pair: dict[str, Any]) -> str:
        solved = [bool(pair[label] and pair[label].get("success")) for label in ("before", "after")]
        return {(False, True): "learnt", (True, True): "both"}.get((solved[0], solved[1]), "failed")

    limits = {"learnt": 2, "both": 1, "failed": 1}
    chosen = []
    for name, limit in limits.items():
        chosen += [pair for pair in pairs if kind(pair) == name][:limit]
    rest = [pair for pair in pairs if pair not in chosen]
    return (chosen + rest)[:MAX_EPISODES]


def _eval_set(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def training_state(run: RunDirectory, steps: Records) -> str:
    """Returns a text with the reason why training ended. Without a recorded reason, the text contains the last step.

    Returns "" before the first step.
    """
    if ending := describe_ending(read_ending(run.training)):
        return ending
    return f"at step {int(steps[-1]['step']):,}; it is running, or its process was killed" if steps else ""


def render(run: RunDirectory, summary: dict[str, Any] | None) -> str:
    """Returns the HTML of the report. `summary`: the run's summary, or None if the run has not finished."""
    environment = Environment(
        loader=PackageLoader("arlarena.console.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "duration": duration, "counted": counted}
    steps, state = read_steps(run.metrics), run.read_state()
    before, after = _eval_set(run.eval_set("before")), _eval_set(run.eval_set("after"))
    return environment.get_template("report.html.j2").render(
        style=Markup(page_style()),  # trusted: a file of arlarena-proto
        name=state.name if state else run.path.name,
        state=state,
        warning=data_warning(before or after),
        repeat_command=command_line(["up", str(run.config.absolute()), "--run-dir", "DIRECTORY"], anywhere=True),
        ending=training_state(run, steps),
        summary=summary,
        eval_set=describe_eval_set(summary) if summary else "",
        score_columns=SCORE_COLUMNS,
        training=training_charts(steps, summary),
        cloning=cloning_charts(run),
        other_metric_charts=other_charts(steps),
        breakdowns=breakdowns(before, after),
        pairs=chosen_episodes(read_records(run.episodes("before")), read_records(run.episodes("after"))),
        config=run.config.read_text(encoding="utf-8") if run.config.exists() else "",
    )


def write_report(run: RunDirectory, summary: dict[str, Any] | None) -> Path:
    """Write `report.html` atomically. Returns its path. `summary`: see `render`."""
    write_text(run.report, render(run, summary))
    return run.report
