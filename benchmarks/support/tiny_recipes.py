"""Shared code of the benchmarks that check a tiny recipe (configs/*-tiny.toml): command line, claims, and result."""

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
    """Parse the command line of a benchmark.

    Args:
        description: the text above the options in the help.
        config: default of `--config`: a file name in configs/.
        out: default of `--out`: a file name in benchmarks/results/.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / config)
    parser.add_argument("--reuse", action="store_true", help="do not repeat finished runs in runs/verify")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS / out)
    return parser.parse_args()


def claims_of(name: str, run: dict[str, Any], split: str) -> list[Claim]:
    """Return the claims about a training run. The claims must be true for every seed.

    The claims are: The evaluation set contains at least `MIN_TASKS` tasks of the split `split`. Training improves the
    success rate. The run takes less than an hour. `run`: the summary from `training_runs.make`.
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
    """Print all results, and write them as JSON. Return the exit status: 0 if all claims are true, else 1.

    Args:
        runs: name of the run → summary.
        claims: the claims about the runs.
        seeds: names of the runs with the unchanged recipe.
        out: the file to write.
    """
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
