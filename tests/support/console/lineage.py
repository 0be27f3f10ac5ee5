"""The lineage of a finished run: every group has exactly one outcome, in the last checkpoint and in the metrics."""

import json
from collections import Counter
from pathlib import Path
from typing import Any


def strict_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a key stand twice; a lineage must not."""
    keys = Counter(key for key, _ in pairs)
    assert max(keys.values(), default=1) == 1, f"twice in one object: {[key for key, n in keys.items() if n > 1]}"
    return dict(pairs)


def final_ledger(directory: Path) -> tuple[int, dict[str, Any]]:
    newest = sorted(path.parent for path in (directory / "checkpoints").glob("step-*/COMMITTED"))[-1]
    state = json.loads((newest / "state.json").read_text(), object_pairs_hook=strict_object)
    return state["step"], state["ledger"]


def check_lineage(directory: Path, steps: int) -> Counter[str]:
    """Every id that was ever issued occurs once, and what was trained on is what the steps say they trained on."""
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
