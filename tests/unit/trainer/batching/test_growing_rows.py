"""Turns that continue each other become one row (training sequence). A turn with a changed history starts a new row.

Tokens of tool output are not trained on.
"""

import msgspec
import pytest

from arlarena.proto.trajectory import PolicyVersion, pack_floats, pack_ids
from arlarena.trainer.batching.scoring import ScoredGroup, group_rewards, score, training_samples
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.objectives import GroupAdvantages, recipe

NOW = PolicyVersion("run", 3, "now")
OLD = PolicyVersion("run", 2, "old")


def turn(make_group, new_prompt, response, mask=None, version=NOW, reset=False):
    shape = make_group("g", [True], version, turns=1).trajectories[0].turns[0]
    return msgspec.structs.replace(
        shape, new_prompt_ids=pack_ids(new_prompt), response_ids=pack_ids(response), reset=reset,
        logprobs=pack_floats([-0.1 * token for token in response]), loss_mask=bytes(mask or [1] * len(response)),
    )  # fmt: skip


@pytest.fixture
def episode(make_group):
    """Return three turns that continue each other, and one turn with a shortened prompt.

    The tool outputs are token 90 before the second turn, and tokens 91 and 92 before the third.
    """
    return [
        turn(make_group, [1, 2], [10, 11], reset=True),
        turn(make_group, [90], [12]),
        turn(make_group, [91, 92], [13, 14, 15], mask=[1, 1, 0]),
        turn(make_group, [1, 13, 14, 15], [16], reset=True),
    ]


def scored(make_group, turns, credit):
    group = make_group("g", [True], NOW)
    group.trajectories = (msgspec.structs.replace(group.trajectories[0], turns=tuple(turns)),)
    return ScoredGroup(group, GroupAdvantages(total=[credit], episode=[credit]), (True,))


def test_a_growing_row_has_each_token_once_and_masks_tool_tokens(make_group, episode):
    first, second = training_samples([scored(make_group, episode, [0.5, -1.0, 2.0, 3.0])], "now", 2.0, growing=True)
    assert first.prompt.tolist() == [1, 2]
    assert first.response.tolist() == [10, 11, 90, 12, 91, 92, 13, 14, 15]
    assert first.mask.tolist() == [1, 1, 0, 1, 0, 0, 1, 1, 0]
    assert first.behaviour.tolist() == pytest.approx([-1.0, -1.1, 0.0, -1.2, 0.0, 0.0, -1.3, -1.4, -1.5])
    assert first.turns == ((3, 1.0), (3, -2.0), (3, 4.0))
    assert (second.prompt.tolist(), second.response.tolist()) == ([1, 13, 14, 15], [16])
    assert second.turns == ((1, 6.0),)
    assert (first.trajectory, second.trajectory) == (0, 0)


@pytest.mark.parametrize(("growing", "rows"), [(True, [[0, 0, 0, 1]]), (False, None)])
def test_group_rewards_have_the_row_of_each_turn(make_group, episode, growing, rows):
    group = scored(make_group, episode, [0.0] * 4).group
    assert group_rewards(group, growing=growing).rows == rows


def test_growing_rows_weigh_short_and_long_episodes_equally(make_group):
    """Two episodes of one turn succeed, and two episodes of five turns fail.

    Mean and standard deviation are over four rows if rows are growing, else over twelve turns.
    """
    group = make_group("g", [True, True, False, False], NOW)
    group.trajectories = tuple(
        msgspec.structs.replace(one, turns=continued(make_group, 1 if one.success else 5, 10.0 * one.success))
        for one in group.trajectories
    )
    run = {"invalid_penalty": 0.1, "max_response_tokens": 8}
    fresh = StalenessPolicy(3, 0, {"now": 3})
    result = {
        growing: score(recipe("gspo_release"), [group], fresh, growing=growing, **run)[0].advantages.total
        for growing in (True, False)
    }
    assert [turns[0] for turns in result[True]] == pytest.approx([0.866, 0.866, -0.866, -0.866], abs=1e-3)
    assert [turns[0] for turns in result[False]] == pytest.approx([2.141, 2.141, -0.428, -0.428], abs=1e-3)
    assert [len(turns) for turns in result[True]] == [1, 1, 5, 5]


def continued(make_group, turns, reward):
    """Return `turns` turns that continue each other. The last turn has the reward."""
    made = []
    for number in range(turns):
        made.append(turn(make_group, [90] if number else [1, 2], [10 + number], reset=number == 0))
        made[-1].reward = reward if number == turns - 1 else 0.0
    return tuple(made)


def test_without_growing_each_turn_is_a_row(make_group, episode):
    rows = training_samples([scored(make_group, episode, [0.5, -1.0, 2.0, 3.0])], "now")
    complete = [1, 2, 10, 11, 90, 12, 91, 92]
    assert [row.prompt.tolist() for row in rows] == [complete[:2], complete[:5], complete, [1, 13, 14, 15]]
    assert [row.response.tolist() for row in rows] == [[10, 11], [12], [13, 14, 15], [16]]
    assert [row.turns for row in rows] == [((2, 0.5),), ((1, -1.0),), ((3, 2.0),), ((1, 3.0),)]


def test_one_stale_turn_makes_a_growing_row_stale(make_group, episode):
    episode[1] = turn(make_group, [90], [12], version=OLD)
    first, second = training_samples([scored(make_group, episode, [0.0] * 4)], "now", growing=True)
    assert (first.fresh, second.fresh) == (False, True)
