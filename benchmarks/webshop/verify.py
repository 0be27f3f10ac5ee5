"""Checks the claims about configs/webshop-tiny.toml on three seeds, and writes benchmarks/results/webshop_tiny.json.

    python -m benchmarks.webshop.verify             repeat all runs: half an hour for each run
    python -m benchmarks.webshop.verify --reuse     do not repeat finished runs; resume unfinished runs

The run directories are runs/verify/webshop-<seed>. The claims are about the success rate and about the mean score. A
purchase that satisfies only a part of the goal is not a success, but has a score above 0. Exit status: 0 if every claim
is true, 1 if a claim is false, 2 if a run failed.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.support.tiny_recipes import arguments, claims_of, write_results
from benchmarks.support.training_runs import Claim, Plan, directory_of, make, mean, paired_scores


def main() -> int:
    """Execute the training runs, check the claims, and print and write the result. Return the exit status."""
    args = arguments(__doc__, "webshop-tiny.toml", "webshop_tiny.json")
    runs: dict[str, dict[str, Any]] = {}
    claims: list[Claim] = []
    for plan in [Plan(f"webshop-{seed}", seed) for seed in args.seeds]:
        runs[plan.name] = run = make(plan, args.config, args.reuse)
        run["score"] = scores(plan)
        claims += [*claims_of(plan.name, run, "test"), score_claim(plan.name, run)]
    return write_results(runs, claims, list(runs), args.out)


def scores(plan: Plan) -> dict[str, Any]:
    """Return the number of tasks, the mean scores before and after training, and the 95 % interval of the gain.

    The interval is computed from the difference for each task. `plan`: a finished training run.
    """
    before, after, interval = paired_scores(directory_of(plan))
    return {
        "tasks": len(before),
        "before": round(mean(before), 4),
        "after": round(mean(after), 4),
        "paired_gain_ci95": interval,
    }


def score_claim(name: str, run: dict[str, Any]) -> Claim:
    """Return the claim that training increases the mean score over all tasks. `run`: the summary of the run `name`."""
    score, (low, high) = run["score"], run["score"]["paired_gain_ci95"]
    measured = f"{score['before']:.3f} to {score['after']:.3f} ({low:+.3f} to {high:+.3f})"
    complete = score["tasks"] == run["eval_set"]["n"]
    if not complete:
        measured += f", but only {score['tasks']} tasks: set [evaluation] episodes to the number of tasks"
    return Claim(name, "a higher mean score, whose paired interval excludes 0", measured, complete and low > 0)


if __name__ == "__main__":
    sys.exit(main())
