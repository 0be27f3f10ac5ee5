"""How benchmarks/demo/verify.py judges runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.demo import verify
from benchmarks.support import training_runs


def run(**changes: Any) -> dict[str, Any]:
    good = {
        "eval_set": {"n": 512, "temperature": 1.0},
        "gain": 0.2,
        "intervals_overlap": False,
        "well_formed": {"before": 0.97},
        "clone": {"stopped": "validation"},
        "wall_s": 800.0,
        "environment_steps": 100_000,
        "paired_gain_ci95": [0.15, 0.25],
    }
    return good | changes


def test_a_good_run_holds_everything() -> None:
    assert all(claim.holds for claim in verify.claims_of_the_demo("sampo-0", run()))


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"eval_set": {"n": 511, "temperature": 1.0}}, "evaluation set"),
        ({"eval_set": {"n": 512, "temperature": 0.5}}, "evaluation set"),
        ({"gain": 0.149}, "gain"),
        ({"intervals_overlap": True}, "intervals"),
        ({"well_formed": {"before": 0.94}}, "well-formed"),
        ({"well_formed": {"before": None}}, "well-formed"),
        ({"clone": {"stopped": "step 300"}}, "stopped by hand"),
        ({"wall_s": 901.0}, "15 minutes"),
    ],
)
def test_each_claim_can_fail(changes: dict[str, Any], broken: str) -> None:
    failed = [claim.claim for claim in verify.claims_of_the_demo("sampo-0", run(**changes)) if not claim.holds]
    assert len(failed) == 1
    assert broken in failed[0]


def test_controls_that_gain_fail() -> None:
    def judged(name: str, control: dict[str, Any]) -> list[bool]:
        return [claim.holds for claim in verify.claims_of_the_controls({"sampo-0": run(), name: control})]

    nothing = run(gain=0.004, paired_gain_ci95=[-0.02, 0.03])
    collapsed = run(gain=-0.4, paired_gain_ci95=[-0.45, -0.35])
    assert judged("zero-0", nothing) == [True, True]
    assert judged("zero-0", collapsed) == [True, True]
    assert judged("zero-0", run()) == [False, True]
    assert judged("zero-0", nothing | {"environment_steps": 150_000}) == [True, False]
    assert judged("pull-0", nothing) == [True, True, True]
    assert judged("pull-0", collapsed) == [True, False, True]
    assert judged("pull-0", run()) == [False, False, True]


def test_the_paired_interval_is_that_of_the_differences(tmp_path: Path) -> None:
    (tmp_path / "eval_sets").mkdir()
    outcomes = {"before": [0, 0, 1, 1, 0, 0, 1, 0], "after": [1, 0, 1, 1, 1, 0, 0, 1]}
    for label, solved in outcomes.items():
        results = [[index, success, 0.0, 5] for index, success in enumerate(solved)]
        (tmp_path / "eval_sets" / f"{label}.json").write_text(json.dumps({"results": results}))
    low, high = training_runs.paired_gain(tmp_path)
    # Differences 1 0 0 0 1 0 -1 1, and one more 1 and -1: mean 0.2, variance 0.6 - 0.04, standard error sqrt(0.056).
    # The quantile of Student's t with 9 degrees of freedom is 2.262.
    assert (low + high) / 2 == pytest.approx(0.2, abs=1e-4)
    assert (high - low) / 2 == pytest.approx(2.262 * 0.056**0.5, abs=1e-3)
