"""Checks what the demo promises, on three seeds, beside its controls, and writes benchmarks/results/demo.json.

    python benchmarks/verify_demo.py                 every run anew, 7 to 15 minutes each
    python benchmarks/verify_demo.py --reuse         keep runs that are finished, go on with those that are not

Runs, each of them `arlarena up configs/demo.toml` in runs/verify/<name>:

    sampo-0, sampo-1, sampo-2    the demo as it is
    zero-0                       the same with every advantage multiplied by 0, for as many environment steps; what is
                                 left is the entropy bonus, and the pull to the clone
    pull-0                       the same without the entropy bonus too: nothing but the pull to the clone is left
    grpo-0                       GRPO with its own clipping, for as many environment steps

Exit status 0 if every claim holds, 1 if one fails, 2 if a run could not be made.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "demo.json"
RUNS = Path("runs") / "verify"

LEAST_GAIN, AIM, LEAST_PANEL, LEAST_WELL_FORMED, MOST_SECONDS = 0.15, 0.25, 512, 0.95, 15 * 60
# What two samplings of one policy on the panel may differ by: two standard errors of a paired difference are 4 points.
STILL = 0.05
HONEST_STOPS = ("validation", "demonstrations")
# A run ends with the batch that reaches the budget, so it may overshoot by one.
BUDGET_SLACK = 0.1
Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    name: str
    seed: int
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """What is promised of one run, and whether it held."""

    run: str
    what: str
    measured: str
    holds: bool


def budget(environment_steps: int) -> tuple[str, ...]:
    """Train for as many environment steps, whatever that takes in optimiser steps and minutes."""
    return (f"trainer.max_environment_steps={environment_steps}", "trainer.steps=1000000", "trainer.max_minutes=120.0")


def make(plan: Plan, config: Path, reuse: bool) -> dict[str, Any]:
    """Make a run, or take over the one that is there, and read what it left.

    Raises:
        SystemExit: it failed.
    """
    directory = ROOT / RUNS / plan.name
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
    """95 % interval of the gain: the same tasks were played before and after, so their differences are what varies."""
    panels = [json.loads((directory / "panels" / f"{label}.json").read_text()) for label in ("before", "after")]
    outcomes: list[dict[int, list[int]]] = []
    for panel in panels:
        by_task: dict[int, list[int]] = {}
        for index, success, *_ in panel["results"]:
            by_task.setdefault(index, []).append(success)
        outcomes.append(by_task)
    before, after = outcomes
    differences = [mean(after[task]) - mean(before[task]) for task in before if task in after]
    centre = mean(differences)
    variance = sum((value - centre) ** 2 for value in differences) / (len(differences) - 1)
    half = Z95 * math.sqrt(variance / len(differences))
    return [round(centre - half, 4), round(centre + half, 4)]


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value."""
    return sum(values) / len(values)


def claims_of_the_demo(name: str, run: dict[str, Any]) -> list[Claim]:
    """What every seed promises."""
    panel, gain, well_formed = run["panel"], run["gain"], run["well_formed"]["before"] or 0.0
    overlap = "overlap" if run["intervals_overlap"] else "do not overlap"
    return [
        Claim(name, "panel of at least 512 at T = 1", f"{panel['n']} at T = {panel['temperature']}", is_full(panel)),
        Claim(name, "gain of at least 15 points", f"{100 * gain:+.1f}", gain >= LEAST_GAIN),
        Claim(name, "intervals that do not overlap", overlap, not run["intervals_overlap"]),
        Claim(
            name, "clone at least 95 % well-formed", f"{100 * well_formed:.1f} %", well_formed >= LEAST_WELL_FORMED
        ),
        Claim(
            name, "clone not stopped by hand", f"stopped by {run['clone']['stopped']}",
            run["clone"]["stopped"] in HONEST_STOPS,
        ),
        Claim(name, "within 15 minutes", f"{run['wall_s'] / 60:.1f} min", run["wall_s"] <= MOST_SECONDS),
    ]  # fmt: skip


def is_full(panel: dict[str, Any]) -> bool:
    """Whether the panel is as large and sampled as promised."""
    return bool(panel["n"] >= LEAST_PANEL and panel["temperature"] == 1.0)


def claims_of_the_controls(runs: dict[str, dict[str, Any]]) -> list[Claim]:
    """Without advantages nothing is gained, and by the pull to the clone alone nothing changes; equal steps are
    equal.
    """
    found = []
    for name in ("zero-0", "pull-0"):
        if name in runs:
            gain, (low, high) = runs[name]["gain"], runs[name]["paired_gain_ci95"]
            said = f"{100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            found.append(Claim(name, "no gain without advantages", said, low <= 0))
    if "pull-0" in runs:
        gain = runs["pull-0"]["gain"]
        what = f"within {100 * STILL:.0f} points of the clone"
        found.append(Claim("pull-0", what, f"{100 * gain:+.1f}", abs(gain) <= STILL))
    for name in ("zero-0", "pull-0", "grpo-0"):
        if name in runs and "sampo-0" in runs:
            wanted, had = runs["sampo-0"]["environment_steps"], runs[name]["environment_steps"]
            equal = abs(had - wanted) <= BUDGET_SLACK * wanted
            found.append(Claim(name, "as many environment steps as sampo-0", f"{had:,} of {wanted:,}", equal))
    return found


def write_results(runs: dict[str, dict[str, Any]], claims: Sequence[Claim], complete: bool) -> None:
    """Write everything that is known so far, whole or not at all."""
    demo = [run["gain"] for name, run in runs.items() if name.startswith("sampo")]
    result = {
        "schema": 1,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "complete": complete,
        "passed": complete and all(claim.holds for claim in claims),
        "gains": {name: run["gain"] for name, run in runs.items()},
        "mean_gain": round(mean(demo), 4) if demo else None,
        "aim_of_25_points_reached": bool(demo) and min(demo) >= AIM,
        "claims": [asdict(claim) for claim in claims],
        "runs": runs,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(RESULTS)


def show(runs: dict[str, dict[str, Any]], claims: Sequence[Claim]) -> None:
    """The tables."""
    console = Console(highlight=False)
    table = Table(title="Runs: success in % on the same unseen tasks", title_justify="left")
    for heading in ("run", "before", "after", "gain", "95 % interval of it", "environment steps", "minutes"):
        table.add_column(heading, justify="left" if heading == "run" else "right")
    for name, run in runs.items():
        before, after = (100 * run[label]["success"] for label in ("before", "after"))
        low, high = run["paired_gain_ci95"]
        interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
        figures = (f"{before:.1f}", f"{after:.1f}", f"{100 * run['gain']:+.1f}", interval)
        table.add_row(name, *figures, f"{run['environment_steps']:,}", f"{run['wall_s'] / 60:.1f}")
    console.print(table)
    for claim in claims:
        mark = "[green]holds[/]" if claim.holds else "[bold red]FAILS[/]"
        console.print(f"{mark}  {claim.run:<8} {claim.what}: {claim.measured}")


def main() -> int:
    """Make the runs, judge them, write and show the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "demo.toml")
    parser.add_argument("--reuse", action="store_true", help="keep finished runs in runs/verify")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    runs: dict[str, dict[str, Any]] = {}
    claims: list[Claim] = []
    plans = [Plan(f"sampo-{seed}", seed) for seed in args.seeds]
    for plan in plans:
        runs[plan.name] = make(plan, args.config, args.reuse)
        claims += claims_of_the_demo(plan.name, runs[plan.name])
        write_results(runs, claims, complete=False)
    if 0 in args.seeds:
        equal = budget(runs["sampo-0"]["environment_steps"])
        controls = [
            Plan("zero-0", 0, ("trainer.advantage_scale=0.0", *equal)),
            Plan("pull-0", 0, ("trainer.advantage_scale=0.0", "trainer.entropy_coefficient=0.0", *equal)),
            Plan("grpo-0", 0, ("trainer.recipe=grpo", "trainer.recipe_overrides={}", *equal)),
        ]
        for plan in controls:
            runs[plan.name] = make(plan, args.config, args.reuse)
    claims += claims_of_the_controls(runs)
    complete = {0, 1, 2} <= set(args.seeds)
    write_results(runs, claims, complete)
    show(runs, claims)
    return 0 if all(claim.holds for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
