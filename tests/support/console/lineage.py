"""Checks the lineage of a finished run: every group has exactly one outcome, in the last checkpoint and the metrics."""

import json
from collections import Counter
from pathlib import Path
from typing import Any


def strict_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object from JSON pairs. Assert that no key occurs twice, which JSON would allow."""
    keys = Counter(key for key, _ in pairs)
    assert max(keys.values(), default=1) == 1, f"keys that occur twice: {[key for key, n in keys.items() if n > 1]}"
    return dict(pairs)


def final_ledger(directory: Path) -> tuple[int, dict[str, Any]]:
    newest = sorted(path.parent for path in (directory / "checkpoints").glob("step-*/COMMITTED"))[-1]
    state = json.loads((newest / "state.json").read_text(), object_pairs_hook=strict_object)
    return state["step"], state["ledger"]


def check_lineage(directory: Path, steps: int) -> Counter[str]:
    """Assert that each issued id occurs once, and that each step trained as many groups as its metrics report.

    Returns the number of groups for each outcome.
    """
    step, ledger = final_ledger(directory)
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert step == steps
    assert [record["step"] for record in records] == list(range(1, steps + 1))
    assert ledger["open"] == {}
    assert sorted(ledger["lineage"]) == [f"g{index:06d}" for index in range(ledger["next_index"])]
    trained = Counter(at for outcome, at in ledger["lineage"].values() if outcome == "trained")
    for record in records:
        assert trained[record["step"] - 1] == record["groups_kept"] + record["groups_backfilled"]
    return Counter(outcome for outcome, _ in ledger["lineage"].values())
