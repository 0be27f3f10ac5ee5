"""The checks of runs with killed containers find each planted fault."""

import json
from pathlib import Path

import pytest
from support.console.page_support import VERSION, group

from arlarena.proto.trajectory import write_groups
from benchmarks.chaos.run_checks import staleness
from benchmarks.demo.chaos_checks import lineage_problems

STEPS = 5  # groups were sampled by the version of step 3 and trained on at step 4, the fifth step


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose only recorded group was trained on at its last step."""
    (tmp_path / "groups").mkdir()
    write_groups(tmp_path / "groups" / "step-000005.msgpack", [group("g000000", [True, False])])
    write_metrics(tmp_path, [{"step": step, "age_max": 1.0} for step in range(1, STEPS + 1)])
    checkpoint = tmp_path / "checkpoints" / "step-000005"
    checkpoint.mkdir(parents=True)
    (checkpoint / "COMMITTED").touch()
    write_ledger(tmp_path, {"g000000": ["trained", 4]}, next_index=1)
    return tmp_path


def write_metrics(run: Path, records: list[dict[str, float]]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def write_ledger(run: Path, lineage: dict[str, list[object]], next_index: int) -> None:
    ledger = {"lineage": lineage, "open": {}, "next_index": next_index}
    (run / "checkpoints" / "step-000005" / "state.json").write_text(json.dumps({"ledger": ledger}))


def test_a_run_within_the_bounds_has_no_problem(run: Path) -> None:
    assert VERSION.step == 3
    assert staleness(run, 1) == (1, [])
    problems, outcomes = lineage_problems(run, STEPS)
    assert problems == []
    assert outcomes == {"trained": 1}


def test_a_sample_above_the_bound_of_staleness_is_found_in_metrics_and_in_groups(run: Path) -> None:
    assert staleness(run, 0)[1] == [
        *(f"step {step}: a sample of age 1, the bound is 0" for step in range(1, STEPS + 1)),
        "step-000005.msgpack: all episodes of g000000 are at least 1 steps old",
    ]


def test_a_lost_group_is_found(run: Path) -> None:
    write_ledger(run, {"g000000": ["trained", 4]}, next_index=2)
    assert lineage_problems(run, STEPS)[0] == ["the groups in the lineage are not the issued groups"]


def test_a_group_that_was_trained_on_twice_is_found(run: Path) -> None:
    twice = [group("g000000", [True, False])] * 2
    write_groups(run / "groups" / "step-000005.msgpack", twice)
    assert lineage_problems(run, STEPS)[0] == ["g000000 was trained on 2 times at step 4"]


def test_a_step_with_two_records_is_found(run: Path) -> None:
    write_metrics(run, [{"step": step, "age_max": 1.0} for step in (1, 2, 3, 3, 4, 5)])
    assert lineage_problems(run, STEPS)[0] == ["metrics.jsonl does not contain each step exactly once"]
