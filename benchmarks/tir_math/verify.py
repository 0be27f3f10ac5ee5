"""Checks the claims about configs/tir-math-tiny.toml on three seeds, and writes benchmarks/results/tir_math_tiny.json.

    python -m benchmarks.tir_math.verify             repeat all runs: a few minutes for each run
    python -m benchmarks.tir_math.verify --reuse     do not repeat finished runs; resume unfinished runs

The run directories are runs/verify/<name>:

    tir-math-0, -1, -2     the unchanged recipe: SAMPO. It compares turns of a group that have the same anchor state (in
                           TIR Math, the outputs of the earlier programs)
    tir-math-gspo-0        the fallback: GSPO with SAMPO's filter of groups. GSPO needs no anchor states
    tir-math-zero-0        control: every advantage is multiplied by 0. Only the KL penalty trains the policy. It keeps
                           the policy near the clone (the policy after behaviour cloning)

An episode with a program has two turns: the program, then the answer. So the mean number of turns shows how often the
policy uses the tool.

Exit status: 0 if every claim is true, 1 if a claim is false, 2 if a run failed.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.demo.verify import NO_GAIN
from benchmarks.support.tiny_recipes import arguments, claims_of, write_results
from benchmarks.support.training_runs import Claim, Plan, make

GSPO = ("trainer.recipe=gspo", "trainer.recipe_overrides.filter=success")
ZERO = ("trainer.advantage_scale=0.0",)


def main() -> int:
    """Execute the training runs, check the claims, and print and write the result. Return the exit status."""
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
    control_gain = runs["tir-math-zero-0"]["gain"]
    claims.append(
        Claim("tir-math-zero-0", "no gain without advantages", f"{100 * control_gain:+.1f}", control_gain < NO_GAIN)
    )
    return write_results(runs, claims, seeds, args.out)


if __name__ == "__main__":
    sys.exit(main())
