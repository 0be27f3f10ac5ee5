"""Executes complete training runs with `arlarena up`, and prints whether claims about the runs are true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from arlarena.rollout.evaluation.statistics.paired import difference_interval
from benchmarks.support.paths import ROOT

RUNS = Path("runs") / "verify"


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of a training run. `name`: name of the run directory. `overrides`: changed settings as KEY=VALUE."""

    name: str
    seed: int
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim about a training run, such as "within 15 minutes".

    Attributes:
        run: name of the run.
        claim: the claim as text.
        measured: the measured value as text.
        holds: whether the claim is true.
    """

    run: str
    claim: str
    measured: str
    holds: bool


def directory_of(plan: Plan) -> Path:
    """Return the run directory of the training run `plan`."""
    return ROOT / RUNS / plan.name


def make(plan: Plan, config: Path, reuse: bool) -> dict[str, Any]:
    """Execute a training run with `arlarena up`. Return the content of its `summary.json`.

    This function adds two keys to the summary: `clone` (the content of `clone.json`) and `paired_gain_ci95` (the 95 %
    confidence interval of the gain in the success rate).

    If `reuse` is true and the run directory contains a run, resume this run. A finished run is not repeated.

    Raises:
        SystemExit: the run failed. The exit status is 2.
    """
    directory = directory_of(plan)
    start = "--resume" if reuse and (directory / "run.json").exists() else "--fresh"
    command = [sys.executable, "-m", "arlarena.console", "up", str(config), start]
    command += ["--seed", str(plan.seed), "--run-dir", str(directory.relative_to(ROOT))]
    for override in plan.overrides:
        command += ["--set", override]
    print(f"\n== {plan.name}: {' '.join(command[3:])}", flush=True)
    environment = {key: value for key, value in os.environ.items() if key != "ARLARENA_SEED"}
    if code := subprocess.run(command, cwd=ROOT, env=environment).returncode:
        print(f"error: run {plan.name} ended with exit status {code}", file=sys.stderr)
        raise SystemExit(2)
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    summary["clone"] = json.loads((directory / "clone.json").read_text())
    summary["paired_gain_ci95"] = paired_gain(directory)
    return summary


def paired_gain(directory: Path) -> list[float]:
    """Return the 95 % confidence interval of the gain in the success rate. `directory`: a finished run.

    The run plays the same tasks before and after training. The interval is computed from the difference for each task.
    """
    eval_sets = [json.loads((directory / "eval_sets" / f"{label}.json").read_text()) for label in ("before", "after")]
    outcomes: list[dict[int, list[int]]] = []
    for eval_set in eval_sets:
        by_task: dict[int, list[int]] = {}
        for index, success, *_ in eval_set["results"]:
            by_task.setdefault(index, []).append(success)
        outcomes.append(by_task)
    before, after = outcomes
    return interval_of([mean(after[task]) - mean(before[task]) for task in before if task in after])


def paired_scores(directory: Path) -> tuple[list[float], list[float], list[float]]:
    """Return (scores before training, scores after training, 95 % confidence interval of the gain in the mean score).

    Both lists have one mean score per task, in the same order of tasks. They contain the tasks that have recorded
    episodes both before and after training. An evaluation records only the first `[evaluation] episodes` episodes.
    """
    before, after = (_scores_by_task(directory / "episodes" / f"{label}.jsonl") for label in ("before", "after"))
    tasks = [task for task in before if task in after]
    pairs = [(mean(before[task]), mean(after[task])) for task in tasks]
    return [old for old, _ in pairs], [new for _, new in pairs], interval_of([new - old for old, new in pairs])


def _scores_by_task(path: Path) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for line in path.read_text().splitlines():
        episode = json.loads(line)
        scores.setdefault(episode["task"], []).append(float(episode["score"]))
    return scores


def interval_of(differences: Sequence[float]) -> list[float]:
    """Return the 95 % confidence interval of the mean difference. `differences`: one value per task, in [-1, 1]."""
    return difference_interval(differences).rounded()


def mean(values: Sequence[float]) -> float:
    """Return the mean of `values`, which must not be empty."""
    return sum(values) / len(values)


def show(runs: dict[str, dict[str, Any]], claims: Sequence[Claim]) -> None:
    """Print a table of the runs. Then print each claim, and whether it is true. `runs`: name → summary."""
    console = Console(highlight=False)
    table = Table(title="Runs: success in % on the same unseen tasks", title_justify="left")
    for heading in ("run", "before", "after", "gain", "95 % interval of the gain", "environment steps", "minutes"):
        table.add_column(heading, justify="left" if heading == "run" else "right")
    for name, run in runs.items():
        before, after = (100 * run[label]["success"] for label in ("before", "after"))
        low, high = run["paired_gain_ci95"]
        interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
        values = (f"{before:.1f}", f"{after:.1f}", f"{100 * run['gain']:+.1f}", interval)
        table.add_row(name, *values, f"{run['environment_steps']:,}", f"{run['wall_s'] / 60:.1f}")
    console.print(table)
    for claim in claims:
        mark = "[green]holds[/]" if claim.holds else "[bold red]FAILS[/]"
        console.print(f"{mark}  {claim.run:<8} {claim.claim}: {claim.measured}")
