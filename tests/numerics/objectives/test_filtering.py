"""The selection of groups to train on: the filter rules, the filling of a batch, back-fill and cold start."""

import random

import pytest

from arlarena.trainer.objectives import Selection, Verdict, rule_at
from arlarena.trainer.objectives.filtering import FILTERS


@pytest.mark.parametrize(
    ("wins", "size", "useful"), [(0, 8, False), (1, 8, True), (7, 8, True), (8, 8, False), (0, 0, False)]
)
def test_success_rule_keeps_mixed_groups(wins, size, useful):
    successes = [i < wins for i in range(size)]
    assert FILTERS["success"]([0.0] * size, successes) is useful


@pytest.mark.parametrize(
    ("returns", "useful"),
    [([1.0, 1.0], False), ([1.0, 0.9], True), ([], False), ([5.0], False), ([0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1], False)],
)
def test_return_rule_keeps_unequal_returns(returns, useful):
    assert FILTERS["return"](returns, None) is useful


def test_the_rules_differ_if_returns_depend_on_the_number_of_turns():
    """All episodes succeed, but in different numbers of turns, so their returns differ.

    The rule of the paper drops the group. The rule of the released code keeps it.
    """
    returns, successes = [10.4, 10.1], [True, True]
    assert FILTERS["return"](returns, successes)
    assert not FILTERS["success"](returns, successes)


def test_success_rule_needs_successes():
    with pytest.raises(ValueError, match="needs successes"):
        FILTERS["success"]([1.0, 0.0], None)


def offer(selection, name, *wins):
    return selection.offer(name, [float(win) for win in wins], [bool(win) for win in wins])


def test_groups_are_offered_until_the_batch_is_full():
    selection = Selection("success", wanted=2)
    assert offer(selection, "a", 1, 0) is Verdict.KEPT
    assert offer(selection, "b", 0, 0) is Verdict.DROPPED
    assert not selection.is_full()
    assert offer(selection, "c", 0, 1) is Verdict.KEPT
    assert selection.is_full()
    chosen = selection.close()
    assert (chosen.batch, chosen.filtered, chosen.kept, chosen.backfilled) == (["a", "c"], ["b"], 2, 0)
    with pytest.raises(RuntimeError, match="full"):
        offer(selection, "d", 1, 0)


def test_after_all_tries_the_newest_uniform_groups_fill_the_batch():
    selection = Selection("success", wanted=3, max_tries=2)
    for name in "abcdef":
        assert not selection.is_full()
        offer(selection, name, 1, int(name != "b"))
    assert selection.is_full()
    assert (selection.kept, selection.dropped) == (1, 5)
    chosen = selection.close()
    assert chosen.batch == ["b", "f", "e"]
    assert chosen.filtered == ["a", "c", "d"]
    assert (chosen.kept, chosen.backfilled) == (1, 2)


def test_without_backfill_a_short_batch_stays_short():
    selection = Selection("success", wanted=3, max_tries=1, backfill=False)
    for name, wins in (("a", (1, 0)), ("b", (1, 1)), ("c", (0, 0))):
        offer(selection, name, *wins)
    chosen = selection.close()
    assert (chosen.batch, chosen.filtered, chosen.backfilled) == (["a"], ["b", "c"], 0)


@pytest.mark.parametrize("seed", range(20))
def test_every_offered_group_is_either_in_the_batch_or_filtered(seed):
    rng = random.Random(seed)
    wanted, tries = rng.randint(1, 6), rng.randint(1, 4)
    selection = Selection("success", wanted, max_tries=tries, backfill=rng.random() < 0.5)
    offered = []
    while not selection.is_full():
        offered.append(len(offered))
        offer(selection, offered[-1], rng.random() < 0.5, rng.random() < 0.5)
    chosen = selection.close()
    assert sorted(chosen.batch + chosen.filtered) == offered
    assert len(offered) <= wanted * tries
    assert len(chosen.batch) <= wanted
    assert chosen.kept + chosen.backfilled == len(chosen.batch)


def test_cold_start_filters_nothing():
    assert [rule_at("success", step, 2) for step in range(4)] == ["none", "none", "success", "success"]
    selection = Selection(rule_at("success", 0, 5), wanted=1)
    assert offer(selection, "all fail", 0, 0) is Verdict.KEPT


@pytest.mark.parametrize("options", [{"rule": "sucess", "wanted": 1}, {"rule": "none", "wanted": 0}])
def test_invalid_arguments_are_refused(options):
    with pytest.raises(ValueError, match=r"unknown filter 'sucess'|wanted = 0 .* must be at least 1"):
        Selection(**options)
    with pytest.raises(ValueError, match="max_tries = 0 must be at least 1"):
        Selection("none", 1, max_tries=0)
