"""Anchors, which define the turns to compare, and overlong shaping, the penalty for long responses."""

import difflib

import pytest

from arlarena.trainer.objectives import AdvantageConfig, GroupRewards, compute_advantages, recipe
from arlarena.trainer.objectives.advantages import anchor_groups, overlong_shaping

# ---- overlong shaping ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "value"), [(0, 0.0), (80, 0.0), (85, -0.025), (90, -0.05), (100, -0.1), (120, -0.2)]
)
def test_overlong_shaping(length, value):
    assert overlong_shaping(length, 100) == pytest.approx(value, abs=1e-12)


def test_overlong_shaping_changes_the_episode_part_but_not_the_step_part():
    group = GroupRewards(rewards=[[1.0], [1.0]], lengths=[[50], [100]], state_keys=[["a"], ["a"]])
    (scored,) = compute_advantages(recipe("dapo_gigpo"), [group], max_response_tokens=100)
    assert scored.episode[0][0] > 0 > scored.episode[1][0]
    assert scored.step == [[0.0], [0.0]]
    (plain,) = compute_advantages(recipe("gigpo"), [group], max_response_tokens=100)
    assert plain.total == [[0.0], [0.0]]


@pytest.mark.parametrize("limit", [None, 0])
def test_dapo_needs_max_response_tokens(limit):
    with pytest.raises(ValueError, match="max_response_tokens"):
        compute_advantages(
            recipe("dapo_grpo"), [GroupRewards(rewards=[[1.0]], lengths=[[3]])], max_response_tokens=limit
        )


# ---- anchors -------------------------------------------------------------------------------------------------------


def test_similar_observations_join_the_first_cluster_that_is_similar_enough():
    base = "You are in the kitchen. On the table you see an apple, a knife and a bowl of soup. " * 3
    near, far = base.replace("apple", "apply", 1), "Nothing happens. The drawer is closed and will not open. " * 4
    assert difflib.SequenceMatcher(None, base, near, autojunk=False).ratio() > 0.95
    group = GroupRewards(rewards=[[0.0, 0.0], [0.0, 0.0]], observations=[[base, far], [near, far]])
    assert anchor_groups(group, AdvantageConfig(anchor="similar")) == [[0, 1], [0, 1]]
    assert anchor_groups(group, AdvantageConfig(anchor="similar", similarity=1.0)) == [[0, 1], [2, 1]]


def test_similar_compares_with_the_first_member_only():
    """The third text is similar to the second text, but not to the first text of the cluster."""
    texts = ["a" * 100, "a" * 96 + "b" * 4, "a" * 92 + "b" * 8]
    group = GroupRewards(rewards=[[0.0] * 3], observations=[texts])
    assert anchor_groups(group, AdvantageConfig(anchor="similar")) == [[0, 0, 1]]


def test_the_state_anchor_separates_states_with_equal_observations():
    group = GroupRewards(
        rewards=[[0.0], [1.0]], state_keys=[["s1"], ["s2"]], observation_keys=[["nothing happens"], ["nothing happens"]]
    )
    (by_state,) = compute_advantages(recipe("gigpo"), [group])
    (by_text,) = compute_advantages(recipe("gigpo", anchor="observation"), [group])
    assert by_state.anchor_sizes == [[1], [1]]
    assert by_state.step == [[0.0], [0.0]]
    assert [turns[0] for turns in by_text.step] == pytest.approx([-0.707106, 0.707106], rel=1e-5)
