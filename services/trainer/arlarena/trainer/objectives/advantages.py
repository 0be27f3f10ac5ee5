"""Advantage estimators: dimension three (advantage design) of ARLArena (arXiv 2602.21534).

GRPO: arXiv 2402.03300; GiGPO: arXiv 2505.10978; EMPG: arXiv 2509.09265; RLOO: arXiv 2402.14740; REINFORCE++: arXiv
2501.03262.

An estimator maps the groups of a batch to the advantage of every turn, as Python floats. An advantage has an episode
part A_E, computed from the returns of episodes. GiGPO adds a step part A_S, computed from step returns. A step return
is the discounted sum of the rewards from one turn to the end of the episode. Inputs are raw rewards (`GroupRewards`).
Penalties are subtracted only in this module.

Mean and standard deviation are over units. `stat_unit` selects the unit: a row (training sequence), a turn or an
episode. The reward of a unit is the mean of `turn_rewards` over the unit's turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from arlarena.trainer.objectives.advantage_types import (
    STAT_UNITS,
    AdvantageConfig,
    GroupAdvantages,
    GroupRewards,
    Turns,
    Values,
)
from arlarena.trainer.objectives.registry import Registry
from arlarena.trainer.objectives.similarity import cluster_numbers

# Added to a standard deviation, as in the released code of GRPO and GiGPO.
STD_EPSILON = 1e-6
# Overlong shaping is a penalty for long responses, as in the DAPO runs of ARLArena. Up to 80 % of the response limit,
# there is no penalty. Then the penalty rises linearly, to 0.1 at the limit.
OVERLONG_START = 0.8
OVERLONG_PENALTY = 0.1
# Values with a difference of at most EQUAL count as equal, because rounding may change sums of the same rewards.
# The tolerance is relative for values above 1, and absolute for smaller values.
EQUAL = 1e-12

# ---- estimators --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Advantage:
    """An estimator of advantages, and its requirements.

    Attributes:
        estimate: maps the groups of one batch to advantages, in the order of the groups.
        uses_anchors: whether the estimator compares turns with the same anchor (key of a state or observation). Groups
            without anchors are then refused.
        uses_entropies: whether the estimator needs `GroupRewards.entropies`. The trainer then computes the entropies in
            a forward pass before the update.
        batch_baseline: whether the baseline is a mean over the batch. Groups with one episode are then allowed.
    """

    estimate: Callable[[Sequence[GroupRewards], AdvantageConfig], list[GroupAdvantages]]
    uses_anchors: bool = False
    uses_entropies: bool = False
    batch_baseline: bool = False


ADVANTAGES: Registry[Advantage] = Registry("advantage")

Estimator = TypeVar("Estimator", bound=Callable[[Sequence[GroupRewards], AdvantageConfig], list[GroupAdvantages]])


def register_advantage(
    name: str, *, uses_anchors: bool = False, uses_entropies: bool = False, batch_baseline: bool = False
) -> Callable[[Estimator], Estimator]:
    """Return a decorator that registers an estimator as the advantage `name`. `Advantage` explains the flags.

    Raises:
        RecipeError: the name is taken, or is not a Python identifier. The decorator raises this error.
    """

    def decorate(estimate: Estimator) -> Estimator:
        ADVANTAGES.add(name, Advantage(estimate, uses_anchors, uses_entropies, batch_baseline))
        return estimate

    return decorate


@register_advantage("grpo")
def grpo(groups: Sequence[GroupRewards], config: AdvantageConfig) -> list[GroupAdvantages]:
    """Return (r - mean) / (std + 1e-6), with mean and unbiased std over the group.

    r is the reward of a unit (row, turn or episode; see `stat_unit`). If `scale` is `none` (Dr.GRPO), return r - mean.
    """
    episodes = [_episode_part(group, config) for group in groups]
    return [GroupAdvantages(total=part, episode=part) for part in episodes]


@register_advantage("gigpo", uses_anchors=True)
def gigpo(groups: Sequence[GroupRewards], config: AdvantageConfig) -> list[GroupAdvantages]:
    """Return A_E + ω A_S. A_E is the advantage of `grpo`, and A_S the step part (`step_part`)."""
    results = []
    for group in groups:
        episode, (step, sizes) = _episode_part(group, config), step_part(group, config)
        total = [[e + config.omega * s for e, s in zip(*rows, strict=True)] for rows in zip(episode, step, strict=True)]
        results.append(GroupAdvantages(total=total, episode=episode, step=step, anchor_sizes=sizes))
    return results


@register_advantage("rloo")
def rloo(groups: Sequence[GroupRewards], config: AdvantageConfig) -> list[GroupAdvantages]:
    """Return (r - mean) · n / (n - 1) for a group with n rewards r: each reward minus the mean of the n - 1 others.

    r is the reward of a unit (row, turn or episode; see `stat_unit`).
    """
    results = []
    for group in groups:
        values, units = _group_values(group, config)
        mean, n = _mean(units), len(units)
        gain = 0.0 if _all_equal(units) else n / (n - 1)
        part = [[(value - mean) * gain for value in turns] for turns in values]
        results.append(GroupAdvantages(total=part, episode=part))
    return results


@register_advantage("reinforce_pp", batch_baseline=True)
def reinforce_pp(groups: Sequence[GroupRewards], config: AdvantageConfig) -> list[GroupAdvantages]:
    """Return (r - mean) / (std + 1e-6), with mean and unbiased std over the batch instead of over the group.

    r is the reward of a unit (row, turn or episode; see `stat_unit`).
    """
    scored = [_group_values(group, config) for group in groups]
    units = [value for _, group_units in scored for value in group_units]
    parts = [_normalise(values, units, "std") for values, _ in scored]
    return [GroupAdvantages(total=part, episode=part) for part in parts]


@register_advantage("empg", uses_entropies=True)
def empg(groups: Sequence[GroupRewards], config: AdvantageConfig) -> list[GroupAdvantages]:
    """Return g · A_E + ζ · f of each turn, minus the mean of these values over all turns of the batch.

    A_E is the advantage of `grpo`. Ĥ is the mean token entropy of a turn, scaled to [0, 1] over the batch. g is
    exp(-k Ĥ), divided by the mean of exp(-k Ĥ) over the batch. f is exp(-k' Ĥ) of the next turn of the episode, and 0
    for the last turn.

    Raises:
        ValueError: a group has no entropies.
    """
    if any(group.entropies is None for group in groups):
        raise ValueError("a group has no entropies; advantage 'empg' needs the mean token entropy of each turn")
    flat = [value for group in groups for turns in group.entropies or [] for value in turns]
    low, spread = (min(flat), max(flat) - min(flat)) if flat else (0.0, 0.0)
    # If all entropies are equal, every Ĥ is 0.
    scaled = [[[_ratio(h - low, spread) for h in turns] for turns in group.entropies or []] for group in groups]
    mean_gain = _mean([math.exp(-config.entropy_k * h) for group in scaled for turns in group for h in turns])
    results = []
    for group, entropies in zip(groups, scaled, strict=True):
        episode = _episode_part(group, config)
        total = [_modulate(rows, turns, mean_gain, config) for rows, turns in zip(episode, entropies, strict=True)]
        results.append(GroupAdvantages(total=total, episode=episode))
    return _subtract_mean(results)


# ---- the episode part --------------------------------------------------------------------------------------------


def turn_rewards(group: GroupRewards, config: AdvantageConfig) -> Values:
    """Return the reward of each turn: the return of its episode, minus `invalid_penalty` if the turn was invalid.

    If `overlong_tokens` is set, the (negative) result of `overlong_shaping` for the response's length is added.

    Raises:
        ValueError: `overlong_tokens` is set, but the group has no lengths.
    """
    if config.overlong_tokens is not None and group.lengths is None:
        raise ValueError("the group has no lengths; overlong shaping needs the number of tokens of each response")
    rewards: Values = []
    for i, (total, invalid) in enumerate(zip(group.episode_returns(), group.invalid(), strict=True)):
        turns = [total - config.invalid_penalty if bad else total for bad in invalid]
        if config.overlong_tokens is not None and group.lengths is not None:
            lengths = group.lengths[i]
            turns = [r + overlong_shaping(n, config.overlong_tokens) for r, n in zip(turns, lengths, strict=True)]
        rewards.append(turns)
    return rewards


def overlong_shaping(length: int, limit: int) -> float:
    """Return min(-0.1 · (length - 0.8 L) / (0.2 L), 0) with L = `limit`: 0 up to 80 % of L, and -0.1 at L."""
    ramp = (1.0 - OVERLONG_START) * limit
    return min(-OVERLONG_PENALTY * (length - OVERLONG_START * limit) / ramp, 0.0)


def _episode_part(group: GroupRewards, config: AdvantageConfig) -> Values:
    values, units = _group_values(group, config)
    return _normalise(values, units, config.scale)


def _group_values(group: GroupRewards, config: AdvantageConfig) -> tuple[Values, list[float]]:
    """Return the value of each turn, and the values of all units (rows, turns or episodes; see `stat_unit`).

    The value of a unit is the mean reward of its turns. The value of a turn is the value of the turn's unit. The reward
    of a single turn is not used, because it could differ from the mean over units by many standard deviations.
    """
    rewards = turn_rewards(group, config)
    if config.stat_unit not in STAT_UNITS:
        raise ValueError(f"unknown stat_unit {config.stat_unit!r}; choose one of {', '.join(STAT_UNITS)}")
    if config.stat_unit == "trajectory":
        units: Turns[int] = [[0] * len(turns) for turns in rewards]
    elif config.stat_unit == "row" and group.rows is not None:
        units = group.rows
    else:
        return rewards, [value for turns in rewards for value in turns]
    means = [_unit_means(turns, numbers) for turns, numbers in zip(rewards, units, strict=True)]
    values = [[mean[number] for number in numbers] for mean, numbers in zip(means, units, strict=True)]
    return values, [value for mean in means for value in mean.values()]


def _unit_means(values: Sequence[float], units: Sequence[int]) -> dict[int, float]:
    """Return the mean value of each unit, by unit number. `units`: the unit number of each value."""
    members: dict[int, list[float]] = {}
    for value, unit in zip(values, units, strict=True):
        members.setdefault(unit, []).append(value)
    return {unit: _mean(group) for unit, group in members.items()}


# ---- the step part -----------------------------------------------------------------------------------------------


def step_part(group: GroupRewards, config: AdvantageConfig) -> tuple[Values, list[list[int]]]:
    """Return (step part A_S of each turn, size of each turn's step group).

    A step group contains all turns of `group` with the same anchor. A_S is (R - mean) / (std + 1e-6). R is the step
    return of the turn. Mean and unbiased std are over the step group. If `step_scale` is `none`, A_S is R - mean. If
    all R of a step group are equal, A_S is 0.
    """
    returns = step_returns(group, config)
    members: dict[int, list[float]] = {}
    labels = anchor_groups(group, config)
    for turns, names in zip(returns, labels, strict=True):
        for value, name in zip(turns, names, strict=True):
            members.setdefault(name, []).append(value)
    scales = {name: _Scale.of(values, config.step_scale) for name, values in members.items()}
    advantages = [
        [scales[name].apply(value) for value, name in zip(*rows, strict=True)]
        for rows in zip(returns, labels, strict=True)
    ]
    return advantages, [[len(members[name]) for name in names] for names in labels]


def step_returns(group: GroupRewards, config: AdvantageConfig) -> Values:
    """Return the step returns R_{i,k} = Σ_{m≥k} gamma^(m-k) r_{i,m}, minus `invalid_penalty` if turn k is invalid.

    r_{i,m} is the raw reward of turn m of trajectory i. The penalty of a turn does not change the step returns of other
    turns.
    """
    returns: Values = []
    for rewards, invalid in zip(group.rewards, group.invalid(), strict=True):
        turns: list[float] = []
        following = 0.0
        for reward in reversed(rewards):
            following = reward + config.gamma * following
            turns.append(following)
        turns.reverse()
        returns.append([r - config.invalid_penalty if bad else r for r, bad in zip(turns, invalid, strict=True)])
    return returns


def anchor_groups(group: GroupRewards, config: AdvantageConfig) -> list[list[int]]:
    """Return the index of each turn's step group. A step group contains all turns of `group` with the same anchor.

    Raises:
        ValueError: the anchor is unknown, or the field that the anchor needs is missing or has an empty value.
    """
    if config.anchor == "similar":
        return cluster_numbers(_keys(group.observations, "observations", config.anchor), config.similarity)
    if config.anchor == "state":
        keys = _keys(group.state_keys, "state_keys", config.anchor)
    elif config.anchor == "observation":
        keys = _keys(group.observation_keys, "observation_keys", config.anchor)
    else:
        raise ValueError(f"unknown anchor {config.anchor!r}; choose one of state, observation, similar")
    numbers: dict[str, int] = {}
    return [[numbers.setdefault(key, len(numbers)) for key in turns] for turns in keys]


def _keys(keys: Turns[str] | None, name: str, anchor: str) -> Turns[str]:
    if keys is None:
        raise ValueError(f"anchor {anchor!r} needs {name}, but this group has none; choose another anchor")
    for i, turns in enumerate(keys):
        for k, key in enumerate(turns):
            if not key:
                # An empty key would put unrelated states into one step group.
                raise ValueError(f"{name} of trajectory {i}, turn {k} is empty; choose another anchor")
    return keys


# ---- arithmetic --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps a value to (value - mean) · gain. The gain is 0 if all values are equal."""

    mean: float
    gain: float

    @classmethod
    def of(cls, values: Sequence[float], scale: str) -> _Scale:
        """Compute mean and gain. The gain is 1 / (unbiased std + 1e-6) for the scale `std`, and 1 for `none`."""
        if scale not in ("std", "none"):
            raise ValueError(f"unknown scale {scale!r}; choose one of std, none")
        mean = _mean(values)
        if _all_equal(values):  # with another gain, the rounding error of the mean would be divided by 1e-6
            return cls(mean, 0.0)
        if scale == "none":
            return cls(mean, 1.0)
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
        return cls(mean, 1.0 / (std + STD_EPSILON))

    def apply(self, value: float) -> float:
        return (value - self.mean) * self.gain


def _normalise(values: Values, units: Sequence[float], scale: str) -> Values:
    normal = _Scale.of(units, scale)
    return [[normal.apply(value) for value in turns] for turns in values]


def _modulate(rows: list[float], entropies: list[float], mean_gain: float, config: AdvantageConfig) -> list[float]:
    gains = [math.exp(-config.entropy_k * h) / mean_gain for h in entropies]
    following = [math.exp(-config.entropy_k_next * h) for h in entropies[1:]] + [0.0]
    return [g * a + config.entropy_zeta * f for g, a, f in zip(gains, rows, following, strict=False)]


def _subtract_mean(groups: list[GroupAdvantages]) -> list[GroupAdvantages]:
    mean = _mean([value for group in groups for turns in group.total for value in turns])
    return [
        GroupAdvantages(total=[[value - mean for value in turns] for turns in group.total], episode=group.episode)
        for group in groups
    ]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _all_equal(values: Sequence[float]) -> bool:
    """True if the values differ by no more than rounding errors (`EQUAL`)."""
    if len(values) < 2:
        return True
    low, high = min(values), max(values)
    return high - low <= EQUAL * max(1.0, abs(low), abs(high))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
