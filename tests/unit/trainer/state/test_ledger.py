import pytest

from arlarena.trainer.state.ledger import OUTCOMES, Ledger, LedgerError


def test_allowance_is_capacity_minus_held_slots():
    ledger = Ledger()
    assert ledger.allowance(1, 4) == 8
    ledger.issue(8)
    assert ledger.allowance(1, 4) == 0
    ledger.settle("g000000", "trained", 0)
    ledger.release("g000001")
    assert ledger.allowance(1, 4) == 2
    assert ledger.allowance(0, 4) == 0  # with more open groups than the capacity, the allowance is 0


def test_a_released_group_frees_its_slot_once():
    ledger = Ledger()
    ledger.issue(2)
    ledger.release("g000000")
    ledger.settle("g000000", "filtered", 3)
    assert ledger.allowance(0, 2) == 1
    assert ledger.lineage == {"g000000": ("filtered", 3)}


def test_a_group_is_settled_exactly_once():
    ledger = Ledger()
    ledger.issue(1)
    ledger.settle("g000000", "trained", 1)
    with pytest.raises(LedgerError, match="g000000 was settled as trained"):
        ledger.settle("g000000", "stale", 2)
    with pytest.raises(LedgerError, match="never issued"):
        ledger.settle("g000007", "trained", 2)
    with pytest.raises(LedgerError, match="has no slot"):
        ledger.release("g000007")


def test_json_keeps_the_lineage_and_reopens_released_slots():
    ledger = Ledger()
    ledger.issue(3)
    ledger.release("g000002")
    ledger.settle("g000000", "stale", 5)
    again = Ledger.from_json(ledger.to_json())
    assert again.lineage == ledger.lineage
    assert again.open == {"g000001": 1, "g000002": 2}
    assert again.released == set()
    assert again.counts() == dict.fromkeys(OUTCOMES, 0) | {"stale": 1}
