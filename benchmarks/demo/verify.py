"""Checks the claims about the demo on three seeds and with control runs, and writes benchmarks/results/demo.json.

    python -m benchmarks.demo.verify                 repeat all runs: 7 to 15 minutes for each run
    python -m benchmarks.demo.verify --reuse         do not repeat finished runs; resume unfinished runs

Each run is `arlarena up configs/demo.toml` with the run directory runs/verify/<name>:

    sampo-0, sampo-1, sampo-2    the unchanged demo
    zero-0                       control: every advantage is multiplied by 0. Only the entropy bonus and the KL penalty
                                 train the policy. The KL penalty keeps it near the clone (the policy after behaviour
                                 cloning)
    pull-0                       control: zero-0 without the entropy bonus
    grpo-0                       GRPO with GRPO's clipping

The last three runs use seed 0 and the same number of environment steps as sampo-0.

Exit status: 0 if every claim is true, 1 if a claim is false, 2 if a run failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.support.paths import RESULTS, ROOT
from benchmarks.support.results import MACHINE
from benchmarks.support.training_runs import Claim, Plan, make, mean, show

RESULT = RESULTS / "demo.json"

MIN_GAIN, TARGET_GAIN, MIN_TASKS, MIN_WELL_FORMED, MAX_SECONDS = 0.15, 0.25, 512, 0.95, 15 * 60
# A gain within ±NO_GAIN counts as no change. For two evaluations of the same policy, two standard errors of the paired
# difference are 4 percentage points.
NO_GAIN = 0.05
AUTOMATIC_STOPS = ("validation", "max_epochs")  # reasons of an automatic end of behaviour cloning
# A run ends after the batch that reaches the budget, so it can exceed the budget by up to one batch.
BUDGET_SLACK = 0.1


def budget(environment_steps: int) -> tuple[str, ...]:
    """Return the settings with which a run ends after `environment_steps` environment steps, and not earlier."""
    return (f"trainer.max_environment_steps={environment_steps}", "trainer.steps=1000000", "trainer.max_minutes=120.0")


def claims_of_the_demo(name: str, run: dict[str, Any]) -> list[Claim]:
    """Return the claims about a run of the unchanged demo. They must be true for every seed. `run`: its summary."""
    eval_set, gain, well_formed = run["eval_set"], run["gain"], run["well_formed"]["before"] or 0.0
    overlap = "overlap" if run["intervals_overlap"] else "do not overlap"
    return [
        Claim(
            name,
            "evaluation set of at least 512 at T = 1",
            f"{eval_set['n']} at T = {eval_set['temperature']}",
            is_full(eval_set),
        ),
        Claim(name, "gain of at least 15 points", f"{100 * gain:+.1f}", gain >= MIN_GAIN),
        Claim(name, "intervals that do not overlap", overlap, not run["intervals_overlap"]),
        Claim(
            name, "clone at least 95 % well-formed", f"{100 * well_formed:.1f} %", well_formed >= MIN_WELL_FORMED
        ),
        Claim(
            name, "clone not stopped by hand", f"stopped by {run['clone']['stopped']}",
            run["clone"]["stopped"] in AUTOMATIC_STOPS,
        ),
        Claim(name, "within 15 minutes", f"{run['wall_s'] / 60:.1f} min", run["wall_s"] <= MAX_SECONDS),
    ]  # fmt: skip


def is_full(eval_set: dict[str, Any]) -> bool:
    """Return whether the evaluation set has at least `MIN_TASKS` tasks and is sampled at temperature 1."""
    return bool(eval_set["n"] >= MIN_TASKS and eval_set["temperature"] == 1.0)


def claims_of_the_controls(runs: dict[str, dict[str, Any]]) -> list[Claim]:
    """Return the claims about the runs zero-0, pull-0 and grpo-0. `runs`: name of the run → summary.

    With advantages of 0, the success rate does not rise. With advantages of 0 and no entropy bonus, the success rate
    does not change. These runs have about as many environment steps as sampo-0.
    """
    claims = []
    for name in ("zero-0", "pull-0"):
        if name in runs:
            gain, (low, high) = runs[name]["gain"], runs[name]["paired_gain_ci95"]
            measured = f"{100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            claims.append(Claim(name, "no gain without advantages", measured, low <= 0))
    if "pull-0" in runs:
        gain = runs["pull-0"]["gain"]
        what = f"within {100 * NO_GAIN:.0f} points of the clone"
        claims.append(Claim("pull-0", what, f"{100 * gain:+.1f}", abs(gain) <= NO_GAIN))
    for name in ("zero-0", "pull-0", "grpo-0"):
        if name in runs and "sampo-0" in runs:
            wanted, steps = runs["sampo-0"]["environment_steps"], runs[name]["environment_steps"]
            equal = abs(steps - wanted) <= BUDGET_SLACK * wanted
            claims.append(Claim(name, "as many environment steps as sampo-0", f"{steps:,} of {wanted:,}", equal))
    return claims


def write_results(runs: dict[str, dict[str, Any]], claims: Sequence[Claim], complete: bool) -> None:
    """Write the results of the finished runs to `RESULT` atomically. `complete`: whether all runs have finished."""
    demo = [run["gain"] for name, run in runs.items() if name.startswith("sampo")]
    result = {
        "schema": 1,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": MACHINE,
        "complete": complete,
        "passed": complete and all(claim.holds for claim in claims),
        "gains": {name: run["gain"] for name, run in runs.items()},
        "mean_gain": round(mean(demo), 4) if demo else None,
        "target_reached": bool(demo) and min(demo) >= TARGET_GAIN,
        "claims": [asdict(claim) for claim in claims],
        "runs": runs,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    partial = RESULT.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(RESULT)


def main() -> int:
    """Execute the training runs, check the claims, and print and write the result. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "demo.toml")
    parser.add_argument("--reuse", action="store_true", help="do not repeat finished runs in runs/verify")
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
