"""Checks what configs/tir-math-tiny.toml promises, on three seeds, and writes benchmarks/results/tir_math_tiny.json.

    python -m benchmarks.tir_math.verify             repeat all runs, some minutes each
    python -m benchmarks.tir_math.verify --reuse     keep runs that are finished, go on with those that are not

Runs are in runs/verify/<name>:

    tir-math-0, -1, -2     the recipe as it is: SAMPO, whose anchor is what the programs have found so far
    tir-math-gspo-0        its fallback: GSPO with SAMPO's filter, which needs no anchor
    tir-math-zero-0        the control: every advantage times 0, what is left is the pull to the clone

Programs are what a policy that takes two turns runs in the first: the mean of turns says how many use the tool.
Exit status 0: every claim holds, 1: one fails, 2: a run could not be made.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.demo.verify import STILL
from benchmarks.support.tiny_recipes import arguments, claims_of, conclude
from benchmarks.support.training_runs import Claim, Plan, make

GSPO = ("trainer.recipe=gspo", "trainer.recipe_overrides.filter=success")
ZERO = ("trainer.advantage_scale=0.0",)


def main() -> int:
    """Make the runs, judge them, and write and show the result."""
    args = arguments(__doc__, "tir-math-tiny.toml", "tir_math_tiny.json")
    runs: dict[str, dict[str, Any]] = {}
    claims: list[Claim] = []
    for plan in [Plan(f"tir-math-{seed}", seed) for seed in args.seeds]:
        runs[plan.name] = run = make(plan, args.config, args.reuse)
        claims += claims_of(plan.name, run, "test")
        before, after = run["before"]["turns"], run["after"]["turns"]
        claims.append(
            Claim(plan.name, "more programs than the clone ran", f"{before:.2f} to {after:.2f} turns", after > before)
        )
    seeds = list(runs)
    for plan in (Plan("tir-math-gspo-0", 0, GSPO), Plan("tir-math-zero-0", 0, ZERO)):
        runs[plan.name] = make(plan, args.config, args.reuse)
    low, high = runs["tir-math-gspo-0"]["paired_gain_ci95"]
    claims.append(Claim("tir-math-gspo-0", "the fallback gains", f"{100 * low:+.1f} to {100 * high:+.1f}", low > 0))
    still = runs["tir-math-zero-0"]["gain"]
    claims.append(Claim("tir-math-zero-0", "no gain without advantages", f"{100 * still:+.1f}", still < STILL))
    return conclude(runs, claims, seeds, args.out)


if __name__ == "__main__":
    sys.exit(main())
