"""Advantages equal numbers that were computed by hand, and the results of plain Python loops over the formulas."""

import dataclasses
import itertools
import math
import random
import statistics

import pytest

from arlarena.trainer.objectives import RECIPES, AdvantageConfig, GroupRewards, compute_advantages, recipe
from arlarena.trainer.objectives.advantages import step_returns, turn_rewards


def close(values, wanted, tolerance=1e-9):
    assert [len(turns) for turns in values] == [len(turns) for turns in wanted]
    flat = [v for turns in values for v in turns]
    assert flat == pytest.approx([w for turns in wanted for w in turns], rel=tolerance, abs=tolerance)


def random_group(seed):
    rng = random.Random(seed)
    sizes = [rng.randint(1, 6) for _ in range(5)]
    return GroupRewards(
        rewards=[[rng.choice([-0.1, 0.9, 0.0, 10.0]) for _ in range(n)] for n in sizes],
        action_valid=[[rng.random() < 0.7 for _ in range(n)] for n in sizes],
        state_keys=[[rng.choice("abcdefg") for _ in range(n)] for n in sizes],
        observation_keys=[[rng.choice("xyz") for _ in range(n)] for n in sizes],
        successes=[rng.random() < 0.5 for _ in sizes],
        lengths=[[rng.randint(1, 120) for _ in range(n)] for n in sizes],
        entropies=[[rng.random() for _ in range(n)] for n in sizes],
    )


def rows_at_random(seed, sizes):
    """Return, for each turn, the index of its row. A turn begins a new row with probability 0.4."""
    rng = random.Random(seed)
    return [list(itertools.accumulate([0, *(int(rng.random() < 0.4) for _ in range(n - 1))])) for n in sizes]


def standardised(value, values, std=True):
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return (value - mean) / ((statistics.stdev(values) + 1e-6) if std else 1.0)


def plain_rewards(group, penalty=0.1):
    rewards = []
    for turns, valid in zip(group.rewards, group.action_valid, strict=True):
        total = sum(turns)
        rewards.append([total if ok else total - penalty for ok in valid])
    return rewards


def plain_step(group, keys, gamma, penalty=0.1, std=True):
    returns = [
        [
            sum(gamma ** (m - k) * turns[m] for m in range(k, len(turns))) - (0.0 if valid[k] else penalty)
            for k in range(len(turns))
        ]
        for turns, valid in zip(group.rewards, group.action_valid, strict=True)
    ]
    pairs = [(key, r) for ks, rs in zip(keys, returns, strict=True) for key, r in zip(ks, rs, strict=True)]
    return [
        [standardised(r, [other for k, other in pairs if k == key], std) for key, r in zip(ks, rs, strict=True)]
        for ks, rs in zip(keys, returns, strict=True)
    ]


# ---- by hand -------------------------------------------------------------------------------------------------------


def hand_group():
    """Return two episodes that start in state s0.

    The first gets reward 10 on its second turn. The second gets no reward, and its second action is invalid.
    """
    return GroupRewards(
        rewards=[[0.0, 10.0], [0.0, 0.0]],
        action_valid=[[True, True], [True, False]],
        state_keys=[["s0", "s1"], ["s0", "s2"]],
    )


def test_gigpo_by_hand():
    # The rewards of the rows are 10, 10, 0, -0.1. Their mean is 4.975. The sum of the squared differences is
    # 25.250625 * 2 + 24.750625 + 25.755625 = 101.0075, so std is 5.802514.
    # The step returns are 9.5, 10 | 0, -0.1. The step group of s0 is {9.5, 0}: mean 4.75, std 6.717514. The step groups
    # of s1 and s2 have one turn each, so their step part is 0.
    (scored,) = compute_advantages(recipe("gigpo"), [hand_group()])
    close(scored.episode, [[0.866004, 0.866004], [-0.857387, -0.874621]], 1e-6)
    close(scored.step, [[0.707107, 0.0], [-0.707107, 0.0]], 1e-6)
    close(scored.total, [[1.573110, 0.866004], [-1.564493, -0.874621]], 1e-6)
    assert scored.anchor_sizes == [[2, 1], [2, 1]]


def test_sampo_takes_gigpo_advantages_and_omega_weighs_the_step_part():
    (sampo,) = compute_advantages(recipe("sampo"), [hand_group()])
    (gigpo,) = compute_advantages(recipe("gigpo"), [hand_group()])
    assert sampo == gigpo
    (doubled,) = compute_advantages(recipe("sampo", omega=2.0), [hand_group()])
    close(doubled.total, [[0.866004 + 2 * 0.707107, 0.866004], [-0.857387 - 2 * 0.707107, -0.874621]], 2e-6)


def test_gigpo_mean_mode_by_hand():
    (scored,) = compute_advantages(recipe("gigpo", scale="none", step_scale="none"), [hand_group()])
    close(scored.total, [[5.025 + 4.75, 5.025], [-4.975 - 4.75, -5.075]])


def test_long_episodes_weigh_more_with_stat_unit_turn_but_not_with_trajectory():
    group = GroupRewards(rewards=[[1.0], [0.0, 0.0, 0.0]])
    (by_turn,) = compute_advantages(recipe("grpo"), [group])
    close(by_turn.total, [[0.75 / 0.500001], [-0.25 / 0.500001] * 3])
    (by_trajectory,) = compute_advantages(recipe("grpo", stat_unit="trajectory"), [group])
    half = 0.5 / (math.sqrt(0.5) + 1e-6)
    close(by_trajectory.total, [[half], [-half] * 3])


@pytest.mark.parametrize(
    ("unit", "wins", "losses"),
    [
        ("row", 0.866025, -0.866025),  # 1, 1, 0, 0: mean 1/2, std 0.577350
        ("trajectory", 0.866025, -0.866025),
        ("turn", 2.140872, -0.428174),  # two 1 and ten 0: mean 1/6, std 0.389249
    ],
)
def test_growing_rows_by_hand_two_winners_of_one_turn_two_losers_of_five(unit, wins, losses):
    group = GroupRewards(
        rewards=[[1.0], [1.0], [0.0] * 5, [0.0] * 5],
        rows=[[0], [0], [0] * 5, [0] * 5],
        state_keys=[[f"{member}-{turn}" for turn in range(n)] for member, n in enumerate((1, 1, 5, 5))],
    )
    for name in ("grpo", "sampo", "gspo_release"):
        (scored,) = compute_advantages(recipe(name, stat_unit=unit), [group])
        close(scored.total, [[wins], [wins], [losses] * 5, [losses] * 5], 3e-6)
    (default,) = compute_advantages(recipe("grpo"), [group])
    close(default.total, [[0.866025], [0.866025], [-0.866025] * 5, [-0.866025] * 5], 3e-6)


def test_turns_of_one_row_share_the_mean_of_their_rewards():
    # The first trajectory has a row of two turns, one of them invalid (mean reward 2 - 0.05), and a row of one turn
    # (reward 2). The reward of the second trajectory is 0.
    group = GroupRewards(
        rewards=[[1.0, 1.0, 0.0], [0.0]], action_valid=[[True, False, True], [True]], rows=[[0, 0, 1], [0]]
    )
    (scored,) = compute_advantages(recipe("grpo", scale="none"), [group])
    mean = (1.95 + 2.0 + 0.0) / 3
    close(scored.total, [[1.95 - mean, 1.95 - mean, 2.0 - mean], [-mean]])


def test_grpo_by_trajectory_stays_bounded_when_only_penalties_differ():
    group = GroupRewards(rewards=[[0.0, 0.0], [0.0, 0.0]], action_valid=[[True, False], [True, True]])
    (scored,) = compute_advantages(recipe("grpo", stat_unit="trajectory"), [group])
    # The mean rewards of the episodes are -0.05 and 0, and std is 0.0353553.
    close(scored.total, [[-0.70708679, -0.70708679], [0.70708679, 0.70708679]], 1e-5)


def test_equal_returns_give_zero_and_no_noise():
    group = GroupRewards(rewards=[[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]], state_keys=[["a", "b", "c"]] * 2)
    for name in ("grpo", "gigpo", "sampo", "rloo", "dr_grpo"):
        (scored,) = compute_advantages(recipe(name), [group])
        assert max(abs(value) for turns in scored.total for value in turns) < 1e-9


def test_rloo_by_hand():
    group = GroupRewards(rewards=[[1.0], [0.0], [0.5]])
    (scored,) = compute_advantages(recipe("rloo"), [group])
    close(scored.total, [[1.0 - 0.25], [0.0 - 0.75], [0.5 - 0.5]])


def test_dr_grpo_does_not_divide():
    (scored,) = compute_advantages(recipe("dr_grpo"), [GroupRewards(rewards=[[3.0], [0.0], [0.0]])])
    close(scored.total, [[2.0], [-1.0], [-1.0]])


def test_reinforce_pp_normalises_over_the_batch():
    groups = [GroupRewards(rewards=[[1.0], [1.0]]), GroupRewards(rewards=[[0.0], [0.0]])]
    scored = compute_advantages(recipe("reinforce_pp"), groups)
    value = 0.5 / (math.sqrt(1 / 3) + 1e-6)
    close(scored[0].total, [[value], [value]])
    close(scored[1].total, [[-value], [-value]])


def test_empg_by_hand():
    # The scaled entropies H are 0, 1 | 0.5. exp(-H) is 1, 0.367879, 0.606531, with the mean 0.658137. The rewards of
    # the rows are 1, 1, 0, so GRPO's advantages are 1/3, 1/3, -2/3, divided by std 0.577350. Only the first turn has a
    # next turn: f = exp(-1).
    group = GroupRewards(rewards=[[0.0, 1.0], [0.0]], entropies=[[0.2, 1.2], [0.7]])
    (scored,) = compute_advantages(recipe("empg"), [group])
    a = [0.577349, 0.577349, -1.154699]
    modulated = [a[0] / 0.658137 + 0.05 * 0.367879, a[1] * 0.367879 / 0.658137, a[2] * 0.606531 / 0.658137]
    mean = sum(modulated) / 3
    close(scored.total, [[modulated[0] - mean, modulated[1] - mean], [modulated[2] - mean]], 1e-5)
    close(scored.episode, [a[:2], a[2:]], 1e-5)


def test_empg_with_one_entropy_everywhere_only_adds_the_bonus():
    group = GroupRewards(rewards=[[1.0], [0.0]], entropies=[[0.3], [0.3]])
    (scored,) = compute_advantages(recipe("empg"), [group])
    close(scored.total, scored.episode)


# ---- at random -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_grpo_equals_the_formula(seed):
    group = random_group(seed)
    rewards = plain_rewards(group)
    rows = [value for turns in rewards for value in turns]
    (scored,) = compute_advantages(recipe("grpo"), [group])
    close(scored.total, [[standardised(value, rows) for value in turns] for turns in rewards])
    (unscaled,) = compute_advantages(recipe("grpo", scale="none"), [group])
    close(unscaled.total, [[standardised(value, rows, std=False) for value in turns] for turns in rewards])


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.parametrize("seed", range(3))
def test_statistics_by_row_are_those_by_turn_bitwise_where_every_turn_is_a_row(name, seed):
    group = random_group(seed)
    numbered = dataclasses.replace(group, rows=[list(range(len(turns))) for turns in group.rewards])
    by_turn = compute_advantages(recipe(name, stat_unit="turn"), [group, group], max_response_tokens=100)
    for rewards in (group, numbered):
        by_row = compute_advantages(recipe(name, stat_unit="row"), [rewards, rewards], max_response_tokens=100)
        assert by_row == by_turn


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("seed", range(10))
def test_statistics_by_row_equal_the_formula(seed, scale):
    plain = random_group(seed)
    rows = rows_at_random(seed, [len(turns) for turns in plain.rewards])
    group = dataclasses.replace(plain, rows=rows)
    units = {}
    for member, (turns, names) in enumerate(zip(plain_rewards(group), rows, strict=True)):
        for value, name in zip(turns, names, strict=True):
            units.setdefault((member, name), []).append(value)
    means = {unit: sum(values) / len(values) for unit, values in units.items()}
    assert len(means) < sum(map(len, rows))
    advantage = {unit: standardised(mean, list(means.values()), scale == "std") for unit, mean in means.items()}
    (grpo,) = compute_advantages(recipe("grpo", scale=scale), [group])
    close(grpo.total, [[advantage[member, name] for name in names] for member, names in enumerate(rows)])
    (sampo,) = compute_advantages(recipe("sampo", scale=scale, omega=0.5), [group])
    close(sampo.episode, grpo.total)
    step = plain_step(group, group.state_keys, 0.95)
    close(sampo.step, step)  # the step part compares single turns, also if a row has several


def test_rloo_and_reinforce_pp_by_row():
    group = GroupRewards(rewards=[[1.0, 0.0], [0.0, 0.0], [0.5]], rows=[[0, 0], [0, 0], [0]])
    (rloo,) = compute_advantages(recipe("rloo", stat_unit="row"), [group])
    close(rloo.total, [[0.75, 0.75], [-0.75, -0.75], [0.0]])
    (reinforce,) = compute_advantages(recipe("reinforce_pp", stat_unit="row"), [group])
    half = 0.5 / (0.5 + 1e-6)
    close(reinforce.total, [[half, half], [-half, -half], [0.0]])


def test_empg_weighs_each_turn_of_a_row_by_its_own_entropy():
    group = GroupRewards(rewards=[[0.0, 1.0], [0.0]], entropies=[[0.2, 1.2], [0.7]], rows=[[0, 0], [0]])
    (scored,) = compute_advantages(recipe("empg", entropy_zeta=0.0), [group])
    # The scaled entropies H are 0, 1 | 0.5. exp(-H) is 1, 0.367879, 0.606531, with the mean 0.658137. The advantages of
    # the rows are ±0.707106.
    modulated = [0.707106 * 1 / 0.658137, 0.707106 * 0.367879 / 0.658137, -0.707106 * 0.606531 / 0.658137]
    mean = sum(modulated) / 3
    close(scored.episode, [[0.707106, 0.707106], [-0.707106]], 1e-5)
    close(scored.total, [[modulated[0] - mean, modulated[1] - mean], [modulated[2] - mean]], 1e-5)


@pytest.mark.parametrize("std", ["std", "none"])
@pytest.mark.parametrize("anchor", ["state", "observation"])
@pytest.mark.parametrize("seed", range(10))
def test_gigpo_equals_the_formula(seed, anchor, std):
    group = random_group(seed)
    method = recipe("sampo", anchor=anchor, gamma=0.9, omega=0.7, scale=std, step_scale=std)
    (scored,) = compute_advantages(method, [group], invalid_penalty=0.3)
    rewards = plain_rewards(group, 0.3)
    rows = [value for turns in rewards for value in turns]
    keys = group.state_keys if anchor == "state" else group.observation_keys
    step = plain_step(group, keys, 0.9, 0.3, std == "std")
    episode = [[standardised(value, rows, std == "std") for value in turns] for turns in rewards]
    close(scored.step, step)
    close(
        scored.total, [[e + 0.7 * s for e, s in zip(*turns, strict=True)] for turns in zip(episode, step, strict=True)]
    )


@pytest.mark.parametrize("seed", range(10))
def test_empg_equals_the_formula_over_the_whole_batch(seed):
    groups = [random_group(seed), random_group(seed + 100)]
    scored = compute_advantages(recipe("empg", entropy_k=1.5, entropy_k_next=0.5, entropy_zeta=0.2), groups)
    every = [h for group in groups for turns in group.entropies for h in turns]
    low, high = min(every), max(every)
    mean_gain = sum(math.exp(-1.5 * (h - low) / (high - low)) for h in every) / len(every)
    wanted = []
    for group in groups:
        rewards = plain_rewards(group)
        rows = [value for turns in rewards for value in turns]
        for turns, entropies in zip(rewards, group.entropies, strict=True):
            hats = [(h - low) / (high - low) for h in entropies]
            for k, value in enumerate(turns):
                bonus = math.exp(-0.5 * hats[k + 1]) if k + 1 < len(turns) else 0.0
                wanted.append(math.exp(-1.5 * hats[k]) / mean_gain * standardised(value, rows) + 0.2 * bonus)
    mean = sum(wanted) / len(wanted)
    flat = [value for group in scored for turns in group.total for value in turns]
    assert flat == pytest.approx([value - mean for value in wanted], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["grpo", "gigpo", "sampo", "empg", "rloo", "reinforce_pp", "dr_grpo", "gspo"])
def test_the_order_of_trajectories_does_not_matter(name):
    group = random_group(3)
    order = [4, 2, 0, 1, 3]
    fields = ("rewards", "action_valid", "state_keys", "lengths", "entropies")
    shuffled = GroupRewards(**{field: [getattr(group, field)[i] for i in order] for field in fields})
    (one,), (other,) = compute_advantages(recipe(name), [group]), compute_advantages(recipe(name), [shuffled])
    close(other.total, [one.total[i] for i in order], 1e-10)


def test_the_penalty_falls_on_the_invalid_turn_alone():
    group = GroupRewards(rewards=[[1.0, 2.0, 4.0]], action_valid=[[True, False, True]])
    assert turn_rewards(group, AdvantageConfig(invalid_penalty=0.1)) == [[7.0, 6.9, 7.0]]
    # With gamma 0.5, the step returns are 1 + 1 + 1, 2 + 2 and 4. The penalty changes only the return of its own turn.
    close(step_returns(group, AdvantageConfig(gamma=0.5, invalid_penalty=0.1)), [[3.0, 3.9, 4.0]])
    assert turn_rewards(group, AdvantageConfig(invalid_penalty=0.0)) == [[7.0, 7.0, 7.0]]


def test_explicit_returns_replace_the_sum_of_rewards():
    group = GroupRewards(rewards=[[0.0, 0.0], [0.0]], returns=[5.0, 1.0])
    assert turn_rewards(group, AdvantageConfig()) == [[5.0, 5.0], [1.0]]


# ---- odd shapes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grpo", "gigpo", "rloo", "dr_grpo", "sampo"])
def test_a_lone_row_has_nothing_to_compare_with(name):
    (scored,) = compute_advantages(recipe(name), [GroupRewards(rewards=[[5.0]], state_keys=[["a"]])])
    assert scored.total == [[0.0]]


@pytest.mark.parametrize("name", ["grpo", "gigpo", "rloo", "reinforce_pp", "empg"])
@pytest.mark.parametrize("unit", ["turn", "row", "trajectory"])
@pytest.mark.parametrize("rows", [None, [[0], [], [0]]])
def test_an_episode_without_turns_does_not_change_other_episodes(name, unit, rows):
    group = GroupRewards(
        rewards=[[1.0], [], [0.0]],
        state_keys=[["a"], [], ["b"]],
        entropies=[[0.1], [], [0.2]],
        returns=[1.0, 7.0, 0.0],
        rows=rows,
    )
    (scored,) = compute_advantages(recipe(name, stat_unit=unit), [group])
    assert [len(turns) for turns in scored.total] == [1, 0, 1]
    assert scored.episode[0][0] > 0 > scored.episode[2][0]
    assert compute_advantages(recipe(name), []) == []
