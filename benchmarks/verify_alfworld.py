"""Checks what configs/alfworld-tiny.toml promises, on three seeds, and writes benchmarks/results/alfworld_tiny.json.

    python benchmarks/verify_alfworld.py             every run anew, half an hour each
    python benchmarks/verify_alfworld.py --reuse     keep runs that are finished, go on with those that are not

Runs are in runs/verify/alfworld-<seed>. Exit status 0: every claim holds, 1: one fails, 2: a run could not be made.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from env_processes import finish
from rich.console import Console
from verify_demo import Claim, Plan, make, show

from arlarena.console.summary import kinds_table

ROOT = Path(__file__).resolve().parents[1]
LEAST_PANEL, AIM, MOST_SECONDS = 256, 0.15, 60 * 60


def claims_of(name: str, run: dict[str, Any]) -> list[Claim]:
    """What every seed promises."""
    panel, (low, high) = run["panel"], run["paired_gain_ci95"]
    gain = f"{100 * run['gain']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return [
        Claim(
            name, f"valid_unseen, at least {LEAST_PANEL} games", f"{panel['split']}, {panel['n']}",
            panel["split"] == "valid_unseen" and panel["n"] >= LEAST_PANEL,
        ),
        Claim(name, "a gain whose paired interval excludes 0", gain, low > 0),
        Claim(name, "under 60 minutes", f"{run['wall_s'] / 60:.1f} min", run["wall_s"] < MOST_SECONDS),
    ]  # fmt: skip


def main() -> int:
    """Make the runs, judge them, write and show the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "alfworld-tiny.toml")
    parser.add_argument("--reuse", action="store_true", help="keep finished runs in runs/verify")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "alfworld_tiny.json")
    args = parser.parse_args()
    runs: dict[str, dict[str, Any]] = {}
    claims: list[Claim] = []
    for plan in [Plan(f"alfworld-{seed}", seed) for seed in args.seeds]:
        runs[plan.name] = make(plan, args.config, args.reuse)
        claims += claims_of(plan.name, runs[plan.name])
    show(runs, claims)
    for run in runs.values():
        Console().print(kinds_table(run))
    result = {
        "gains": {name: run["gain"] for name, run in runs.items()},
        "aim_of_15_points_reached": all(run["gain"] >= AIM for run in runs.values()),
        "claims": [
            {"run": claim.run, "what": claim.what, "is": claim.measured, "holds": claim.holds} for claim in claims
        ],
        "runs": runs,
        "passed": all(claim.holds for claim in claims),
    }
    return finish(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
