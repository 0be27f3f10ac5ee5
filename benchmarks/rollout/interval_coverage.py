"""Simulates how often 95 % intervals of evaluations contain the true mean, and writes a table.

    python -m benchmarks.rollout.interval_coverage [--simulations 2000] [--kinds success,paired] [--out FILE]

Each task of a simulated evaluation has a random success rate. The rates have a beta distribution. Its mean is p, and
the sum of its two parameters is `strength`. With strength 0, the policy solves a task always or never. With an infinite
strength, all tasks have the rate p. The variance of the rates is p (1 - p) / (1 + strength). There are four kinds of
intervals:

    success   success rate of binary outcomes
    score     mean score of one attempt of each task. The score is 0, 1/16, … or 1. Its expectation is the task's rate.
    pass      pass@4 of 16 attempts
    paired    difference of two evaluations of the same tasks. The second policy solves a share of the attempts that the
              first policy fails. It fails a share of the attempts that the first policy solves. The true difference is
              0.02.

For each kind, the benchmark compares the interval of the evaluation's summary with Student's t interval of the task
means. With 2,000 simulations, the coverage has a standard error of 0.5 %.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from arlarena.rollout.evaluation.statistics.bounded_mean import Floats, gaffke_bounds, upper_tail
from arlarena.rollout.evaluation.statistics.intervals import LEVEL, beta_bounds, effective_size, student_quantile
from arlarena.rollout.evaluation.statistics.paired import difference_bounds
from arlarena.rollout.evaluation.statistics.pass_at_k import pass_at_k
from benchmarks.support.paths import ROOT

Marks = NDArray[np.bool_]
Kind = Literal["success", "score", "pass", "paired"]
RATES = (0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98)
STRENGTHS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 50.0, math.inf)
# The kinds `score` and `pass` have fewer scenarios, because each scenario takes a second.
FEW_RATES, FEW_STRENGTHS = (0.02, 0.05, 0.2, 0.5, 0.95, 0.98), (0.3, 3.0, math.inf)
TASKS = (30, 134, 512)
GRID = 16  # kind `pass`: number of attempts of a task; kind `score`: number of steps between the scores 0 and 1
WIDTHS = 5  # number of simulations for the mean width of `score` and `pass`
GAIN = 0.02  # the true difference of `paired`


@dataclass(frozen=True, slots=True)
class Scenario:
    """The parameters of simulated evaluations.

    Attributes:
        kind: kind of the interval.
        tasks: number of tasks.
        attempts: number of attempts of each task.
        strength: sum of the parameters of the beta distribution of the tasks' success rates.
        rate: mean success rate p of the tasks.
    """

    kind: Kind
    tasks: int
    attempts: int
    strength: float
    rate: float


@dataclass(frozen=True, slots=True)
class Coverage:
    """The result of a scenario. `t_coverage` and `t_width` are the values of Student's t interval.

    Attributes:
        coverage: share of the intervals that contain the true mean.
        width: mean width of the intervals.
    """

    coverage: float
    width: float
    t_coverage: float
    t_width: float


def scenarios() -> Iterator[Scenario]:
    """Yield all scenarios.

    With one attempt of each task, successes do not depend on `strength`, so these scenarios have one strength only.
    """
    for tasks in TASKS:
        for rate in RATES:
            yield Scenario("success", tasks, 1, math.inf, rate)
            yield from (Scenario("success", tasks, 16, strength, rate) for strength in STRENGTHS)
            if rate + GAIN <= 1:
                yield from (Scenario("paired", tasks, attempts, 1.0, rate) for attempts in (1, 16))
        for rate, strength in product(FEW_RATES, FEW_STRENGTHS):
            yield Scenario("score", tasks, 1, strength, rate)
            yield Scenario("pass", tasks, GRID, strength, rate)


def simulate(scenario: Scenario, simulations: int, seed: int = 0) -> Coverage:
    """Simulate `simulations` evaluations. Return the coverage of the intervals. Equal arguments give equal results."""
    random = np.random.default_rng([seed, scenario.tasks, scenario.attempts, round(1000 * scenario.rate)])
    rates = _rates(scenario, simulations, random)
    if scenario.kind == "paired":
        return _paired(scenario, rates, random)
    k = scenario.attempts
    wins = random.binomial(k if scenario.kind == "success" else GRID, rates)
    if scenario.kind == "success":
        low, high = beta_bounds(wins.mean(-1) / k, effective_size(wins / k, np.full(scenario.tasks, k)))
        return _coverage(_contains(scenario.rate, low, high), float((high - low).mean()), scenario.rate, wins / k)
    table = _pass_table() if scenario.kind == "pass" else np.arange(GRID + 1) / GRID
    truth = _true_pass(scenario) if scenario.kind == "pass" else scenario.rate
    counts = np.stack([(wins == number).sum(-1) for number in range(GRID + 1)], axis=-1)
    # Computing bounds takes fifty times as long as this check, so the mean width comes from only a few simulations.
    covered = (upper_tail(table, counts, truth) >= 0.025) & (upper_tail(1 - table, counts, 1 - truth) >= 0.025)
    bounds = [gaffke_bounds(values, LEVEL) for values in table[wins[:WIDTHS]]]
    return _coverage(covered, float(np.mean([high - low for low, high in bounds])), truth, table[wins])


def _rates(scenario: Scenario, simulations: int, random: np.random.Generator) -> Floats:
    """Draw the success rates of the tasks. Return an array [simulations, tasks]."""
    size, rate, strength = (simulations, scenario.tasks), scenario.rate, scenario.strength
    if math.isinf(strength):
        return np.full(size, rate)
    if strength == 0:
        return (random.random(size) < rate).astype(np.float64)
    return random.beta(rate * strength, (1 - rate) * strength, size)


def _paired(scenario: Scenario, rates: Floats, random: np.random.Generator) -> Coverage:
    """Return the coverage of the intervals of the difference of two policies.

    If the first policy has the success rate r on a task, the second policy has the rate r + (1 - r) a - r b. The shares
    a (`gained`) and b (`lost`) make the true difference equal to `GAIN`. `rates`: r, [simulations, tasks].
    """
    lost = min(0.1, 1 - scenario.rate)
    gained = (GAIN + scenario.rate * lost) / (1 - scenario.rate)
    if gained > 1:
        lost, gained = 0.0, GAIN / (1 - scenario.rate)
    draws = random.random(rates.shape)
    solved = random.random(rates.shape) < rates
    second = np.where(solved, draws >= lost, draws < gained)
    k = scenario.attempts
    differences = second.astype(np.float64) - solved
    if k > 1:
        new_rates = rates * (1 - lost) + (1 - rates) * gained
        differences = (random.binomial(k, new_rates) - random.binomial(k, rates)) / k
    centre, half = difference_bounds(differences)
    low, high = np.maximum(centre - half, -1), np.minimum(centre + half, 1)
    return _coverage(_contains(GAIN, low, high), float((high - low).mean()), GAIN, differences)


def _t_bounds(values: Floats) -> tuple[Floats, Floats]:
    tasks = values.shape[-1]
    half = student_quantile(0.975, tasks - 1) * values.std(-1, ddof=1) / math.sqrt(tasks)
    return values.mean(-1) - half, values.mean(-1) + half


def _contains(truth: float, low: Floats, high: Floats) -> Marks:
    return (low <= truth + 1e-12) & (truth - 1e-12 <= high)


def _coverage(covered: Marks, width: float, truth: float, values: Floats) -> Coverage:
    """Return the result of a scenario.

    Args:
        covered: whether the interval of each simulation contains the true mean, [simulations].
        width: mean width of these intervals.
        truth: the true mean.
        values: one value per task, [simulations, tasks]. Student's t interval is computed from these values.
    """
    low, high = _t_bounds(values)
    t_covered = _contains(truth, low, high)
    return Coverage(
        float(covered.mean()), round(width, 4), float(t_covered.mean()), round(float((high - low).mean()), 4)
    )


@cache
def _pass_table() -> Floats:
    return np.array([pass_at_k(GRID, wins, 4) for wins in range(GRID + 1)])


def _true_pass(scenario: Scenario) -> float:
    """Return the true pass@4 of a scenario.

    For success rates r ~ Beta(a, b), pass@4 is 1 - E[(1 - r)^4] = 1 - Π (b + i) / (a + b + i) with i = 0…3.
    """
    if math.isinf(scenario.strength):
        return 1 - (1 - scenario.rate) ** 4
    if scenario.strength == 0:
        return scenario.rate
    b = (1 - scenario.rate) * scenario.strength
    return 1 - math.prod((b + i) / (scenario.strength + i) for i in range(4))


def main() -> None:
    """Simulate all scenarios, write the table, and print the scenarios with the lowest coverage for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--kinds", default="success,score,pass,paired")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "interval_coverage.json")
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    chosen = [scenario for scenario in scenarios() if scenario.kind in kinds]
    rows = [(scenario, simulate(scenario, arguments.simulations)) for scenario in chosen]
    table = [asdict(scenario) | asdict(coverage) for scenario, coverage in rows]
    for row in table:
        row["strength"] = "equal tasks" if math.isinf(row["strength"]) else row["strength"]
    worst = {}
    for kind in kinds:
        mine = [row for row in table if row["kind"] == kind]
        worst[kind] = {
            "scenarios": len(mine),
            "lowest": min(row["coverage"] for row in mine),
            "below_93": sum(row["coverage"] < 0.93 for row in mine),
            "t_lowest": min(row["t_coverage"] for row in mine),
            "t_below_93": sum(row["t_coverage"] < 0.93 for row in mine),
        }
        print(kind, worst[kind])
        for row in sorted(mine, key=lambda row: row["coverage"])[:6]:
            print("   ", row)
    lines = ",\n  ".join(json.dumps(row) for row in table)
    head = json.dumps({"simulations": arguments.simulations, "worst": worst}, indent=1)[:-2]
    arguments.out.write_text(f'{head},\n "rows": [\n  {lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
