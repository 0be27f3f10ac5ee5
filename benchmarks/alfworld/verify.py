"""Checks the claims about configs/alfworld-tiny.toml on three seeds, and writes benchmarks/results/alfworld_tiny.json.

    python -m benchmarks.alfworld.verify             repeat all runs: half an hour for each run
    python -m benchmarks.alfworld.verify --reuse     do not repeat finished runs; resume unfinished runs

The run directories are runs/verify/alfworld-<seed>. Exit status: 0 if every claim is true, 1 if a claim is false, 2 if
a run failed.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.support.tiny_recipes import arguments, claims_of, write_results
from benchmarks.support.training_runs import Claim, Plan, make


def main() -> int:
    """Execute the training runs, check the claims, and print and write the result. Return the exit status."""
    args = arguments(__doc__, "alfworld-tiny.toml", "alfworld_tiny.json")
    runs: dict[str, dict[str, Any]] = {}
    claims: list[Claim] = []
    for plan in [Plan(f"alfworld-{seed}", seed) for seed in args.seeds]:
        runs[plan.name] = make(plan, args.config, args.reuse)
        claims += claims_of(plan.name, runs[plan.name], "valid_unseen")
    return write_results(runs, claims, list(runs), args.out)


if __name__ == "__main__":
    sys.exit(main())
