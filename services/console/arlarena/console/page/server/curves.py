"""The routes of metrics and curves."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from arlarena.console.page.reading.metrics_table import Floats, thin
from arlarena.console.page.runs import PageRun

X_UNITS = {"step": "steps", "run_seconds": "s", "environment_steps": "turns"}
MAX_METRICS = 100


@cache
def glossary() -> list[tuple[re.Pattern[str], dict[str, str]]]:
    """Returns pairs (pattern, definition) of training metrics.

    `pattern` matches the names of metrics. `definition` has the unit, description, section and module.
    """
    text = resources.files("arlarena.proto").joinpath("metrics.toml").read_text("utf-8")
    result = []
    for key, (unit, description, module) in tomllib.loads(text)["training"].items():
        parts = re.split(r"<\w+>", key)
        pattern = re.compile(r"[A-Za-z0-9_]+".join(map(re.escape, parts)))
        result.append((pattern, {"unit": unit, "description": description, "section": "training", "module": module}))
    return result


def metric_list(runs: list[PageRun]) -> list[dict[str, str]]:
    """Returns the metrics of the runs in the order of `glossary`. Metrics that are not in `glossary` come last."""
    names: dict[str, None] = {}
    for run in runs:
        run.metrics.refresh()
        names |= dict.fromkeys(run.metrics.names())
    unknown = {"unit": "", "description": "", "section": "training", "module": ""}
    found = []
    for position, name in enumerate(names):
        matches = [(rank, entry) for rank, (pattern, entry) in enumerate(glossary()) if pattern.fullmatch(name)]
        rank, entry = matches[0] if matches else (len(glossary()), unknown)
        found.append((rank, position, {"name": name} | entry))
    return [entry for _, _, entry in sorted(found, key=lambda each: each[:2])]


def series(runs: list[PageRun], metrics: list[str], x: str, points: int) -> dict[str, Any]:
    """Returns the object of `GET /api/series`: a curve for each pair of a run and a metric.

    `x`: a key of `X_UNITS`. `points`: maximum number of points of a curve.
    """
    result = []
    for run in runs:
        run.metrics.refresh()
        steps = run.metrics.steps()
        axis = steps if x == "step" else run.metrics.column(x)
        if axis is None:
            continue
        for metric in metrics[:MAX_METRICS]:
            column = run.metrics.column(metric)
            if column is None:
                continue
            length = min(len(axis), len(column))  # a step may be added between the two reads
            xs, ys, low, high = thin(axis[:length], column[:length], points)
            result.append(
                {"run": run.id, "metric": metric, "x": _values(xs), "y": _values(ys)}
                | {"low": None if low is None else _values(low), "high": None if high is None else _values(high)}
                | {"last_step": run.metrics.last_step}
            )
    return {"x": x, "x_unit": X_UNITS[x], "series": result}


def _values(values: Floats) -> list[float | int | None]:
    finite = np.isfinite(values)
    return [
        (int(value) if value.is_integer() and abs(value) < 2**53 else value) if known else None
        for value, known in zip(values.tolist(), finite.tolist(), strict=True)
    ]
