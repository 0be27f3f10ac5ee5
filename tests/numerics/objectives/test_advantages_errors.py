"""If advantages cannot be computed from a group, the error names the wrong or missing field."""

import math

import pytest

from arlarena.trainer.objectives import GroupRewards, compute_advantages, recipe


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"action_valid": [[True]]}, r"action_valid has \[1\] turns per trajectory"),
        ({"state_keys": [["a"], ["b", "c"]]}, r"state_keys has \[1, 2\] turns per trajectory"),
        ({"rows": [[0], [0]]}, r"rows has \[1, 1\] turns per trajectory"),
        ({"returns": [1.0]}, "returns has 1 trajectories"),
        ({"successes": [True, False, True]}, "successes has 3"),
        ({"returns": [1.0, math.inf]}, "return .* is inf"),
        ({"entropies": [[0.1, math.nan], [0.2]]}, "entropy .* is nan"),
    ],
)
def test_ill_formed_groups_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        GroupRewards(rewards=[[1.0, 2.0], [0.0]], **fields)


def test_a_reward_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match=r"reward \[1\]\[0\] is nan"):
        GroupRewards(rewards=[[1.0], [math.nan]])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (recipe("gigpo"), "needs state_keys"),
        (recipe("gigpo", anchor="observation"), "needs observation_keys"),
        (recipe("gigpo", anchor="similar"), "needs observations"),
        (recipe("empg"), "a group has no entropies"),
        (recipe("dapo_grpo"), "the group has no lengths"),
    ],
)
def test_missing_fields_are_named(method, message):
    with pytest.raises(ValueError, match=message):
        compute_advantages(method, [GroupRewards(rewards=[[1.0], [0.0]])], max_response_tokens=10)


def test_an_empty_state_key_is_refused():
    group = GroupRewards(rewards=[[1.0, 2.0]], state_keys=[["a", ""]])
    with pytest.raises(ValueError, match="trajectory 0, turn 1 is empty"):
        compute_advantages(recipe("gigpo"), [group])
