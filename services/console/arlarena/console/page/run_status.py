"""The state of a run as one object. The page, `arlarena runs` and `arlarena status` use it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from arlarena.console.page.reading.metrics_table import MetricsTable
from arlarena.console.page.reading.run_files import BoundedFiles
from arlarena.console.page.reading.run_summary import (
    activity,
    configuration,
    evaluations,
    logged_alarms,
    phase,
    read_object,
    table,
)

# Maximum number of alarms in the status of a run. Older alarms are left out.
MAX_SHOWN_ALARMS = 20


def run_state(files: BoundedFiles, metrics: MetricsTable, alarms: int) -> dict[str, Any]:
    """Returns the values that are shown in lists of runs. Unrecorded values are None. `alarms`: number of alarms."""
    state, tables = read_object(files, "run.json"), configuration(files)
    summary, trainer = read_object(files, "summary.json"), table(tables, "trainer")
    by_label = {each["label"]: each["success"] for each in evaluations(files)}
    steps = read_object(files, "training.json").get("steps", trainer.get("steps"))
    changed = [found.mtime for name in ("metrics.jsonl", "run.json") if (found := files.state(name))]
    return {
        "name": state.get("name", files.root.name),
        "state": phase(files, time.time()),
        "environment": table(tables, "environment").get("name") or summary.get("env"),
        "method": trainer.get("recipe") or summary.get("method"),
        "seed": table(tables, "run").get("seed", summary.get("seed")),
        "started": state.get("started") or None,
        "updated": max(changed, default=None),
        "step": metrics.last_step,
        "steps": steps if isinstance(steps, int) else None,
        "success": metrics.last("success_rate"),
        "before": by_label.get("before"),
        "after": by_label.get("after"),
        "environment_steps": metrics.last("environment_steps"),
        "run_seconds": metrics.last("run_seconds"),
        "alarms": alarms,
    }


def run_facts(files: BoundedFiles) -> dict[str, Any]:
    """Returns the values that are not shown in lists of runs, such as the run's stages, ending and evaluations."""
    state = read_object(files, "run.json")
    return {
        "command": state.get("command") or None,
        "code": state.get("code") or [],
        "stages": state.get("stages") or {},
        "restarts": state.get("restarts") or {},
        "wall_s": state.get("wall_s"),
        "ending": read_object(files, "training.json") or None,
        "activity": activity(files),
        "evaluations": evaluations(files),
    }


def brief_status(path: Path) -> dict[str, Any]:
    """Returns the state of the run in `path`, for a list."""
    files = BoundedFiles(path)
    return {"path": str(path)} | run_state(files, _metrics(files), len(logged_alarms(files)))


def full_status(path: Path) -> dict[str, Any]:
    """Returns the state of the run in `path`, with its newest metrics and alarms."""
    files = BoundedFiles(path)
    metrics, alarms = _metrics(files), logged_alarms(files)
    newest = {name: metrics.last(name) for name in metrics.names()}
    return (
        {"path": str(path)}
        | run_state(files, metrics, len(alarms))
        | run_facts(files)
        | {"metrics": newest, "newest_alarms": alarms[:MAX_SHOWN_ALARMS]}
    )


def _metrics(files: BoundedFiles) -> MetricsTable:
    metrics = MetricsTable(files)
    metrics.refresh()
    while not metrics.complete:
        metrics.refresh()
    return metrics
