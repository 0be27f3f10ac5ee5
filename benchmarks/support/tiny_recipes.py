"""Shared code for checks of the tiny recipes (configs/*-tiny.toml): command line, claims about a run, and result."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from arlarena.console.report.tables import kinds_table
from benchmarks.support.paths import RESULTS, ROOT
from benchmarks.support.results import finish
from benchmarks.support.training_runs import Claim, show

MIN_TASKS, TARGET_GAIN, MAX_SECONDS = 256, 0.15, 60 * 60


def arguments(description: str | None, config: str, out: str) -> argparse.Namespace:
    """Parse the command line. By default, `config` is a file in configs/, and `out` a file in benchmarks/results/."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / config)
    parser.add_argument("--reuse", action="store_true", help="keep finished runs in runs/verify")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS / out)
    return parser.parse_args()


def claims_of(name: str, run: dict[str, Any], split: str) -> list[Claim]:
    """Return the claims about a run. They must be true for every seed.

    The evaluation set contains at least `MIN_TASKS` tasks of the split, training improves the success rate, and the run
    takes less than an hour.
    """
    eval_set, (low, high) = run["eval_set"], run["paired_gain_ci95"]
    gain = f"{100 * run['gain']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return [
        Claim(
            name, f"{split}, at least {MIN_TASKS} tasks", f"{eval_set['split']}, {eval_set['n']}",
            eval_set["split"] == split and eval_set["n"] >= MIN_TASKS,
        ),
        Claim(name, "a gain whose paired interval excludes 0", gain, low > 0),
        Claim(name, "under 60 minutes", f"{run['wall_s'] / 60:.1f} min", run["wall_s"] < MAX_SECONDS),
    ]  # fmt: skip


def write_results(runs: Mapping[str, dict[str, Any]], claims: Sequence[Claim], seeds: Sequence[str], out: Path) -> int:
    """Show and write all results. Return the exit status. `seeds`: names of the runs with the unchanged recipe."""
    show(dict(runs), list(claims))
    for run in runs.values():
        if (kinds := kinds_table(run)) is not None:
            Console().print(kinds)
    result = {
        "gains": {name: run["gain"] for name, run in runs.items()},
        "target_reached": all(runs[name]["gain"] >= TARGET_GAIN for name in seeds),
        "claims": [asdict(claim) for claim in claims],
        "runs": dict(runs),
        "passed": all(claim.holds for claim in claims),
    }
    return finish(result, out)
