"""The charts of a run's report: training metrics per step, losses of cloning, and results of the evaluations.

A class of tasks contains all tasks of one difficulty or of one kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from arlarena.console.report.summary import read_records
from arlarena.console.report.svg import Estimate, Line, Mark, interval_chart, line_chart
from arlarena.console.report.tables import ClassRow, Score
from arlarena.console.rundir import RunDirectory

SHARE = (0.0, 1.0)
Records = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of training metrics.

    `keys`: the metrics to draw, as keys of metrics.jsonl. Metrics that the run did not record are left out. `names`:
    the label of each metric. `within`: the largest permitted range of the y axis.
    """

    title: str
    keys: tuple[str, ...]
    names: tuple[str, ...]
    within: tuple[float, float] | None = None


CHARTS = (
    Chart("Success rate of the training episodes, per step", ("success_rate",), ("success",), SHARE),
    Chart("Mean return", ("return_mean",), ("return",)),
    Chart("Gradient norm", ("grad_norm",), ("gradient norm",)),
    Chart("KL to the policy at the start (k3, nats per token)", ("reference_kl",), ("KL",)),
    Chart(
        "Share of clipped tokens",
        ("clip_positive_high", "clip_negative_low"),
        ("A > 0, ratio too high", "A < 0, ratio too low"),
    ),
    Chart("Share of valid turns", ("format_valid", "action_valid"), ("format", "action"), SHARE),
    Chart("Entropy (nats per token)", ("entropy",), ("entropy",)),
    Chart("Groups per step", ("groups_kept", "groups_filtered", "groups_stale"), ("trained on", "filtered", "stale")),
    Chart("Turns per episode", ("turns_mean",), ("turns",)),
    Chart("Mismatch of policy server and trainer (mean k3)", ("mismatch_k3",), ("mismatch",)),
    Chart("Age of the samples (steps)", ("age_mean", "age_max"), ("mean", "largest")),
    Chart("Training tokens per second", ("tokens_per_s",), ("tokens/s",)),
)
SHOWN_KEYS = {key for chart in CHARTS for key in chart.keys} | {"step", "schema"}


def series(records: Records, key: str, name: str) -> Line:
    """Returns the curve of the metric `key` over the steps. `name`: its label. Skips values that are not numbers."""
    points = [
        (float(record["step"]), float(record[key]))
        for record in records
        if _is_number(record.get("step")) and _is_number(record.get(key))
    ]
    return Line(name, tuple(points))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def training_charts(steps: Records, summary: dict[str, Any] | None) -> list[Markup]:
    """Returns the charts of `CHARTS`. Charts without recorded values are left out."""
    charts = []
    for chart in CHARTS:
        lines = [series(steps, key, name) for key, name in zip(chart.keys, chart.names, strict=True)]
        marks = []
        if chart.keys == ("success_rate",) and summary:
            marks = [Mark(f"evaluation {label}", summary[label]["success"]) for label in ("before", "after")]
        drawn = line_chart(chart.title, lines, marks, chart.within)
        charts += [drawn] if drawn else []
    return charts


def other_charts(steps: Records) -> list[Markup]:
    """Returns one chart for each metric of the trainer that is not in `CHARTS`."""
    keys = dict.fromkeys(key for record in steps for key, value in record.items() if _is_number(value))
    charts = [line_chart(key, [series(steps, key, key)]) for key in keys if key not in SHOWN_KEYS]
    return [chart for chart in charts if chart]


def cloning_charts(run: RunDirectory) -> list[Markup]:
    """Returns the charts of the cloning stage, from its progress records."""
    records = read_records(run.progress("clone"))
    lines = [series(records, "loss", "training"), series(records, "validation_loss", "validation")]
    chart = line_chart("Cloning: loss (nats per token)", lines)
    return [chart] if chart else []


def _estimate(score: Score | None) -> Estimate | None:
    return Estimate(score["success"], *score["ci95"]) if score else None


def class_chart(title: str, rows: Sequence[ClassRow]) -> Markup | None:
    """Returns the chart of the success rates before and after training, by class of tasks."""
    before, after = [_estimate(row.before) for row in rows], [_estimate(row.after) for row in rows]
    return interval_chart(title, [row.name for row in rows], [("before", before), ("after", after)])
