"""Checks what configs/alfworld-tiny.toml promises, on three seeds, and writes benchmarks/results/alfworld_tiny.json.

    python -m benchmarks.alfworld.verify             repeat all runs, half an hour each
    python -m benchmarks.alfworld.verify --reuse     keep runs that are finished, go on with those that are not

Runs are in runs/verify/alfworld-<seed>. Exit status 0: every claim holds, 1: one fails, 2: a run could not be made.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.support.tiny_recipes import arguments, claims_of, conclude
from benchmarks.support.training_runs import Claim, Plan, make


def main() -> int:
    """Make the runs, judge them, and write and show the result."""
    args = arguments(__doc__, "alfworld-tiny.toml", "alfworld_tiny.json")
    runs: dict[str, dict[str, Any]] = {}
    claims: list[Claim] = []
    for plan in [Plan(f"alfworld-{seed}", seed) for seed in args.seeds]:
        runs[plan.name] = make(plan, args.config, args.reuse)
        claims += claims_of(plan.name, runs[plan.name], "valid_unseen")
    return conclude(runs, claims, list(runs), args.out)


if __name__ == "__main__":
    sys.exit(main())
