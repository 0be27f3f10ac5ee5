"""Checks what configs/tir-math-tiny.toml promises, on three seeds, and writes benchmarks/results/tir_math_tiny.json.

    python benchmarks/verify_tir_math.py             every run anew, some minutes each
    python benchmarks/verify_tir_math.py --reuse     keep runs that are finished, go on with those that are not

Runs are in runs/verify/<name>:

    tir-math-0, -1, -2     the recipe as it is: SAMPO, whose anchor is what the programs have found so far
    tir-math-gspo-0        its fallback: GSPO with SAMPO's filter, which needs no anchor
    tir-math-zero-0        the control: every advantage times 0, what is left is the pull to the clone

Programs are what a policy that takes two turns runs in the first: the mean of turns says how many use the tool.
Exit status 0: every claim holds, 1: one fails, 2: a run could not be made.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from env_processes import finish
from rich.console import Console
from verify_demo import STILL, Claim, Plan, make, show

from arlarena.console.summary import kinds_table

ROOT = Path(__file__).resolve().parents[1]
LEAST_PANEL, AIM, MOST_SECONDS = 256, 0.15, 60 * 60
GSPO = ("trainer.recipe=gspo", "trainer.recipe_overrides.filter=success")
ZERO = ("trainer.advantage_scale=0.0",)


def claims_of(name: str, run: dict[str, Any]) -> list[Claim]:
    """What every seed promises."""
    panel, (low, high) = run["panel"], run["paired_gain_ci95"]
    gain = f"{100 * run['gain']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    before, after = run["before"]["turns"], run["after"]["turns"]
    return [
        Claim(
            name, f"test, at least {LEAST_PANEL} problems", f"{panel['split']}, {panel['n']}",
            panel["split"] == "test" and panel["n"] >= LEAST_PANEL,
        ),
        Claim(name, "a gain whose paired interval excludes 0", gain, low > 0),
        Claim(name, "more programs than the clone ran", f"{before:.2f} to {after:.2f} turns", after > before),
        Claim(name, "under 60 minutes", f"{run['wall_s'] / 60:.1f} min", run["wall_s"] < MOST_SECONDS),
    ]  # fmt: skip


def main() -> int:
    """Make the runs, judge them, write and show the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "tir-math-tiny.toml")
    parser.add_argument("--reuse", action="store_true", help="keep finished runs in runs/verify")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "tir_math_tiny.json")
    args = parser.parse_args()
    runs: dict[str, dict[str, Any]] = {}
    claims: list[Claim] = []
    for plan in [Plan(f"tir-math-{seed}", seed) for seed in args.seeds]:
        runs[plan.name] = make(plan, args.config, args.reuse)
        claims += claims_of(plan.name, runs[plan.name])
    for plan in (Plan("tir-math-gspo-0", 0, GSPO), Plan("tir-math-zero-0", 0, ZERO)):
        runs[plan.name] = make(plan, args.config, args.reuse)
    low, high = runs["tir-math-gspo-0"]["paired_gain_ci95"]
    claims.append(Claim("tir-math-gspo-0", "the fallback gains", f"{100 * low:+.1f} to {100 * high:+.1f}", low > 0))
    still = runs["tir-math-zero-0"]["gain"]
    claims.append(Claim("tir-math-zero-0", "no gain without advantages", f"{100 * still:+.1f}", still < STILL))
    show(runs, claims)
    for run in runs.values():
        Console().print(kinds_table(run))
    result = {
        "gains": {name: run["gain"] for name, run in runs.items()},
        "aim_of_15_points_reached": all(runs[f"tir-math-{seed}"]["gain"] >= AIM for seed in args.seeds),
        "claims": [
            {"run": claim.run, "what": claim.what, "is": claim.measured, "holds": claim.holds} for claim in claims
        ],
        "runs": runs,
        "passed": all(claim.holds for claim in claims),
    }
    return finish(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
