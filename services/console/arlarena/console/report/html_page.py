"""`report.html`: one self-contained page about a run, from the files that its stages wrote; it plots what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from arlarena.console.cli.invocation import command_line
from arlarena.console.report.ending import describe_ending, read_ending
from arlarena.console.report.summary import (
    counted_of_a_kind,
    data_warning,
    describe_eval_set,
    interval,
    percent,
    read_json,
    read_records,
    read_steps,
)
from arlarena.console.report.svg import Estimate, Line, Mark, interval_chart, line_chart
from arlarena.console.rundir import RunDirectory
from arlarena.console.stage import duration
from arlarena.proto.text.wording import counted

SHARE = (0.0, 1.0)
MOST_EPISODES = 4
Records = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of metrics.jsonl: the first of `keys` that exist, under `names`."""

    title: str
    keys: tuple[str, ...]
    names: tuple[str, ...]
    within: tuple[float, float] | None = None


CHARTS = (
    Chart("Success rate of the training episodes, per step", ("success_rate",), ("success",), SHARE),
    Chart("Mean return", ("return_mean",), ("return",)),
    Chart("Gradient norm", ("grad_norm",), ("gradient norm",)),
    Chart("KL to the policy at the start (k3, nats a token)", ("reference_kl",), ("KL",)),
    Chart(
        "Share of tokens clipped",
        ("clip_positive_high", "clip_negative_low"),
        ("A > 0, above", "A < 0, below"),
    ),
    Chart("Valid turns (share)", ("format_valid", "action_valid"), ("format", "action"), SHARE),
    Chart("Entropy (nats a token)", ("entropy",), ("entropy",)),
    Chart("Groups per step", ("groups_kept", "groups_filtered", "groups_stale"), ("trained on", "filtered", "stale")),
    Chart("Turns of an episode", ("turns_mean",), ("turns",)),
    Chart("Sampler against trainer (mean k3)", ("mismatch_k3",), ("mismatch",)),
    Chart("Age of the samples (steps)", ("age_mean", "age_max"), ("mean", "largest")),
    Chart("Tokens trained on per second", ("tokens_per_s",), ("tokens/s",)),
)
SHOWN_KEYS = {key for chart in CHARTS for key in chart.keys} | {"step", "schema"}


def series(records: Records, key: str, name: str, x: str = "step") -> Line:
    """The points of `key` where it is a number."""
    points = [
        (float(record[x]), float(record[key]))
        for record in records
        if _is_number(record.get(x)) and _is_number(record.get(key))
    ]
    return Line(name, tuple(points))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def training_charts(steps: Records, summary: dict[str, Any] | None) -> list[Markup]:
    """The charts that are worth a look in every run."""
    found = []
    for chart in CHARTS:
        lines = [series(steps, key, name) for key, name in zip(chart.keys, chart.names, strict=True)]
        marks = []
        if chart.keys == ("success_rate",) and summary:
            marks = [Mark(f"eval_set {label}", summary[label]["success"]) for label in ("before", "after")]
        drawn = line_chart(chart.title, lines, marks, chart.within)
        found += [drawn] if drawn else []
    return found


def other_charts(steps: Records) -> list[Markup]:
    """Everything else that the trainer recorded."""
    keys = dict.fromkeys(key for record in steps for key, value in record.items() if _is_number(value))
    charts = [line_chart(key, [series(steps, key, key)]) for key in keys if key not in SHOWN_KEYS]
    return [chart for chart in charts if chart]


def cloning_charts(run: RunDirectory) -> list[Markup]:
    """How the clone learnt, by its progress lines."""
    records = read_records(run.progress("clone"))
    lines = [series(records, "loss", "training"), series(records, "validation_loss", "validation")]
    chart = line_chart("Cloning: loss (nats a token)", lines)
    return [chart] if chart else []


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class of tasks, before and after."""

    name: str
    n: int
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Success by classes of tasks: what they are classes of, and the heading of their names."""

    title: str
    heading: str
    rows: list[ClassRow]
    chart: Markup | None


def breakdowns(before: dict[str, Any], after: dict[str, Any]) -> list[Breakdown]:
    """Both evaluation sets by the length of the shortest solution and by kind of task, where there are such."""
    found = []
    for table, key, title, heading in (
        ("by_difficulty", "optimal_moves", "By difficulty", "least moves"),
        ("by_kind", "kind", "By kind of task", "kind"),
    ):
        rows = class_rows(before, after, table, key)
        if rows:
            found.append(Breakdown(title, heading, rows, class_chart(f"Success by {heading} (95 % intervals)", rows)))
    return found


def class_rows(before: dict[str, Any], after: dict[str, Any], table: str, key: str) -> list[ClassRow]:
    """Both evaluation sets by the classes of a table."""
    tables = [{row[key]: row for row in eval_set.get(table, [])} for eval_set in (before, after)]
    rows = []
    for name in sorted(tables[0].keys() | tables[1].keys()):
        first, second = tables[0].get(name), tables[1].get(name)
        rows.append(ClassRow(str(name).replace("_", " "), (second or first or {}).get("n", 0), first, second))
    return rows


def _estimate(row: dict[str, Any] | None) -> Estimate | None:
    return Estimate(row["success"], *row["ci95"]) if row else None


def class_chart(title: str, rows: Sequence[ClassRow]) -> Markup | None:
    """Success before and after, by class."""
    before, after = [_estimate(row.before) for row in rows], [_estimate(row.after) for row in rows]
    return interval_chart(title, [row.name for row in rows], [("before", before), ("after", after)])


def chosen_episodes(before: Records, after: Records) -> list[dict[str, Any]]:
    """Pairs of the same task: first those that were learnt, then one solved by both, then failures."""
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
    return (chosen + rest)[:MOST_EPISODES]


def _eval_set(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def training_state(run: RunDirectory, steps: Records) -> str:
    """Why training ended, or how far it is; empty before it began."""
    if ending := describe_ending(read_ending(run.training)):
        return ending
    return f"at step {int(steps[-1]['step']):,}; it goes on, or its process was killed" if steps else ""


def render(run: RunDirectory, summary: dict[str, Any] | None) -> str:
    """The page as text; `summary` is None for a run that has not finished."""
    environment = Environment(
        loader=PackageLoader("arlarena.console.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "duration": duration, "counted": counted}
    steps, state = read_steps(run.metrics), run.read_state()
    before, after = _eval_set(run.eval_set("before")), _eval_set(run.eval_set("after"))
    return environment.get_template("report.html.j2").render(
        name=state.name if state else run.path.name,
        state=state,
        warning=data_warning(before or after),
        repeat=command_line(["up", str(run.config.absolute()), "--run-dir", "DIRECTORY"], anywhere=True),
        ending=training_state(run, steps),
        summary=summary,
        eval_set=describe_eval_set(summary) if summary else "",
        counted_of_a_kind=counted_of_a_kind(before or after),
        training=training_charts(steps, summary),
        cloning=cloning_charts(run),
        others=other_charts(steps),
        breakdowns=breakdowns(before, after),
        pairs=chosen_episodes(read_records(run.episodes("before")), read_records(run.episodes("after"))),
        config=run.config.read_text(encoding="utf-8") if run.config.exists() else "",
    )


def write_report(run: RunDirectory, summary: dict[str, Any] | None) -> Path:
    """Write the page, whole or not at all, and say where it is."""
    partial = run.report.with_name("report.html.partial")
    partial.write_text(render(run, summary), encoding="utf-8")
    partial.replace(run.report)
    return run.report
