"""The README's table of success rates against the recorded runs of the benchmark."""

import json
import re

import pytest
from scipy.stats import binomtest
from support.docs.documents import ROOT

RUNS = json.loads((ROOT / "benchmarks/results/demo.json").read_text())["runs"]
ROWS = {
    "SAMPO, seed 0": "sampo-0",
    "SAMPO, seed 1": "sampo-1",
    "SAMPO, seed 2": "sampo-2",
    "GRPO, seed 0, as many environment steps as SAMPO": "grpo-0",
    "advantages zeroed, seed 0": "zero-0",
    "advantages zeroed, no entropy bonus, seed 0": "pull-0",
}


@pytest.mark.parametrize("row", ROWS)
def test_success_rates_intervals_and_minutes_of_the_readme_are_those_of_the_recorded_runs(row: str) -> None:
    match = re.search(rf"^\| {re.escape(row)} \| (.+) \| (.+) \| (.+) \|$", (ROOT / "README.md").read_text(), re.M)
    assert match is not None
    run = RUNS[ROWS[row]]
    for cell, part in ((match[1], run["before"]), (match[2], run["after"])):
        tasks = run["eval_set"]["n"]
        wins = round(tasks * part["success"])
        assert cell.startswith(f"{100 * wins / tasks:.1f} %")
        # One attempt per task: the interval of evaluations is that of Clopper and Pearson.
        exact = binomtest(wins, tasks).proportion_ci(0.95, "exact")
        assert cell.partition("(")[2] in ("", f"{100 * exact.low:.1f} to {100 * exact.high:.1f})")
    assert match[3] == f"{run['wall_s'] / 60:.1f}"


def test_the_runs_of_sampo_have_intervals() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(re.findall(r"^\| SAMPO, seed \d \| .+\(.+ to .+\) \| .+\(.+ to .+\) \|", text, re.M)) == 3
