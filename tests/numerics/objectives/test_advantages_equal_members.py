"""If the members of a group differ only by rounding errors, their advantages are exactly 0."""

import math
import random

import pytest

from arlarena.trainer.objectives import GroupRewards, compute_advantages, recipe


def unevenly_summed(size=7):
    """Return trajectories with the same rewards in different orders. Their sums differ only by rounding errors."""
    rng = random.Random(size)
    rewards = [-0.1, 0.7, -0.3, 1.1, -0.1]
    return GroupRewards(
        rewards=[rng.sample(rewards, len(rewards)) for _ in range(size)],
        returns=[math.nextafter(1.3, 2.0 if member % 2 else 0.0) for member in range(size)],
        state_keys=[["s"] * len(rewards)] * size,
        successes=[False] * size,
    )


@pytest.mark.parametrize("unit", ["turn", "row", "trajectory"])
@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("method", ["grpo", "rloo", "reinforce_pp"])
@pytest.mark.parametrize("size", [3, 5, 7, 24])
def test_members_that_do_not_differ_get_exactly_zero(method, scale, unit, size):
    advantage = recipe("grpo", advantage=method, scale=scale, stat_unit=unit)
    (scored,) = compute_advantages(advantage, [unevenly_summed(size)])
    assert {value for turns in scored.total for value in turns} == {0.0}


@pytest.mark.parametrize("scale", ["std", "none"])
def test_steps_that_do_not_differ_get_exactly_zero(scale):
    group = GroupRewards(
        rewards=[[math.nextafter(0.1, member % 2)] for member in range(6)],
        state_keys=[["s"]] * 6,
        successes=[False] * 6,
    )
    (scored,) = compute_advantages(recipe("gigpo", step_scale=scale), [group])
    assert {value for turns in scored.total for value in turns} == {0.0}


def test_a_small_difference_still_counts():
    group = GroupRewards(rewards=[[1.0], [1.0 + 1e-9]])
    (scored,) = compute_advantages(recipe("grpo", scale="none"), [group])
    assert scored.total[0][0] < 0 < scored.total[1][0]
