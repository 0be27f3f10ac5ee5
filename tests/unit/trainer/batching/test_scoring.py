import math

import msgspec
import pytest

from arlarena.proto.trajectory import PolicyVersion, VersionSpan
from arlarena.trainer.batching import scoring
from arlarena.trainer.batching.scoring import NotFinite, minibatches, score, training_samples
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.objectives import RECIPES, GroupAdvantages, recipe

OLD, MIDDLE, NOW, LOST = (PolicyVersion("life", step, f"d{step}") for step in (1, 2, 3, 9))
KNOWN = {"d1": 1, "d2": 2, "d3": 3}


def test_age_counts_from_the_oldest_version_and_unknown_versions_are_unusable(make_group):
    group = make_group("a", [True, False, True, False], NOW, versions=[OLD, MIDDLE, NOW, LOST])
    staleness_policy = StalenessPolicy(step=3, staleness=1, known=KNOWN)
    assert [staleness_policy.age(trajectory) for trajectory in group.trajectories] == [2, 1, 0, None]
    assert [staleness_policy.usable(trajectory) for trajectory in group.trajectories] == [False, True, True, False]


def test_a_response_of_two_versions_has_the_age_of_the_older(make_group):
    (trajectory,) = make_group("a", [True], NOW).trajectories
    first, last = trajectory.turns
    last = msgspec.structs.replace(last, spans=(VersionSpan(0, 1, OLD), VersionSpan(1, 4, NOW)))
    staleness_policy = StalenessPolicy(step=3, staleness=1, known=KNOWN)
    assert staleness_policy.age(msgspec.structs.replace(trajectory, turns=(first, last))) == 2


def test_stale_members_count_in_the_statistics_and_give_no_rows(make_group):
    method = recipe("grpo", stat_unit="trajectory")
    complete = make_group("a", [True, False], NOW)
    half = make_group("a", [True, False], NOW, versions=[NOW, OLD])
    staleness_policy = StalenessPolicy(3, 1, KNOWN)
    scored = score(method, [complete, half], staleness_policy, invalid_penalty=0.1, max_response_tokens=8)
    assert scored[0].advantages.total == scored[1].advantages.total
    rows = training_samples([scored[1]], "d3", 1.0)
    assert len(rows) == 2  # the two turns of the member that is not stale
    assert all(row.turns[0][1] > 0 for row in rows)


def test_rows_have_trajectory_numbers_and_freshness(make_group):
    groups = [make_group("a", [True, False], NOW), make_group("b", [False, True], MIDDLE)]
    scored = score(recipe("sampo"), groups, StalenessPolicy(3, 1, KNOWN), invalid_penalty=0.1, max_response_tokens=8)
    rows = training_samples(scored, NOW.digest, 1.0)
    assert [row.trajectory for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [row.fresh for row in rows] == [True] * 4 + [False] * 4
    assert all(row.turns[0][1] == 0 for row in training_samples(scored, NOW.digest, 0.0))


def test_the_invalid_penalty_applies_once_to_invalid_turns(make_group):
    group = make_group("a", [True, True], NOW)
    group.trajectories[0].turns[0].format_valid = False
    scored = score(recipe("grpo"), [group], StalenessPolicy(3, 1, KNOWN), invalid_penalty=0.1, max_response_tokens=8)
    advantages = scored[0].advantages.total
    others = [advantages[0][1], *advantages[1]]
    assert others == pytest.approx([others[0]] * 3)
    assert advantages[0][0] < others[0]


def scored_by(method, groups, **options):
    return score(
        recipe(method), groups, StalenessPolicy(3, 1, KNOWN), invalid_penalty=0.1, max_response_tokens=8, **options
    )


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf, 1e300, 1e25])
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_rewards_that_are_not_finite_or_overflow_name_their_group(make_group, name, reward):
    groups = [make_group(name, [True, False], NOW) for name in "abc"]
    for group in groups[1:]:
        group.trajectories[1].turns[0].reward = reward
    options = {"entropy_fn": lambda rows: [0.5] * len(rows)}
    with pytest.raises(NotFinite, match=r"rewards or the sum of their squares are not finite in groups b, c"):
        scored_by(name, groups, **options)
    groups[1].trajectories[1].turns[0].reward = groups[2].trajectories[1].turns[0].reward = 1e15
    assert len(scored_by(name, groups, **options)) == 3


@pytest.mark.parametrize("entropy", [math.nan, math.inf])
def test_entropies_that_are_not_finite_name_their_group(make_group, entropy):
    groups = [make_group(name, [True, False], NOW) for name in "ab"]
    with pytest.raises(NotFinite, match=r"entropies under the policy are not finite in group b$"):
        scored_by("empg", groups, entropy_fn=lambda rows: [0.5] * (len(rows) - 1) + [entropy])


def test_advantages_that_are_not_finite_name_their_group(make_group, monkeypatch):
    groups = [make_group(name, [True, False], NOW) for name in "ab"]
    unusual = [GroupAdvantages(total=[[0.0, value], [0.0, 0.0]], episode=[]) for value in (0.0, math.inf)]
    monkeypatch.setattr(scoring, "compute_advantages", lambda *_, **__: unusual)
    with pytest.raises(NotFinite, match=r"advantages are not finite in group b$"):
        scored_by("grpo", groups)


def test_minibatches_keep_groups_complete_and_depend_only_on_the_seed(make_group):
    groups = [make_group(name, [True, False], NOW) for name in "abcdefg"]
    scored = score(recipe("sampo"), groups, StalenessPolicy(3, 1, KNOWN), invalid_penalty=0.1, max_response_tokens=8)

    def names(seed):
        return [[each.group.id for each in part] for part in minibatches(scored, 2, seed)]

    assert names(5) == names(5) != names(6)
    assert sorted(name for part in names(5) for name in part) == list("abcdefg")
    assert sorted(map(len, names(5))) == [1, 2, 2, 2]
    assert minibatches([], 3, 0) == []
    assert [len(part) for part in minibatches(scored[:2], 3, 0)] == [2]
    assert [len(part) for part in minibatches(scored, 100, 0)] == [7]
