"""Converts collected groups to training samples.

A group has several episodes (members, trajectories) of one task. Advantages are computed over complete groups.
Afterwards, members that are stale (too old) or have a turn without an action are dropped. A conversation is a sequence
of turns in which each prompt continues the previous turn (`Trajectory.conversations`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from arlarena.proto.trajectory import Group, IdArray, Trajectory, Turn
from arlarena.trainer.batching.packing import TrainingSample
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.objectives import GroupAdvantages, GroupRewards, Recipe, compute_advantages
from arlarena.trainer.objectives.advantages import ADVANTAGES
from arlarena.trainer.settings import updates_of


class NotFinite(RuntimeError):
    """Rewards, entropies or advantages are not finite. The message contains the ids of the groups."""


# The largest allowed sum of the squared rewards of a group. The limit exists because the loss uses float32 advantages.
MAX_SUM_OF_SQUARES = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with its advantages. `usable`: for each trajectory, whether the trajectory may be trained on."""

    group: Group
    advantages: GroupAdvantages
    usable: tuple[bool, ...]


def successes(group: Group) -> list[bool]:
    """Return, for each trajectory, whether the task was solved."""
    return [trajectory.success for trajectory in group.trajectories]


def returns(group: Group) -> list[float]:
    """Return the raw return of each trajectory."""
    return [trajectory.total_reward for trajectory in group.trajectories]


def has_no_action(trajectory: Trajectory) -> bool:
    """True if any turn has no action: the environment found no code and no answer in the reply."""
    return any(turn.no_action for turn in trajectory.turns)


def group_rewards(group: Group, entropies: list[list[float]] | None = None, *, growing: bool = False) -> GroupRewards:
    """Convert `group` to the input of the advantage estimators. A turn counts as valid if format and action are valid.

    `entropies`: the mean token entropy of each turn. `growing`: if True, each conversation (consecutive turns with a
    growing context) is one row (training sequence). If False, each turn is one row.
    """
    turns = [trajectory.turns for trajectory in group.trajectories]
    return GroupRewards(
        rewards=[[turn.reward for turn in each] for each in turns],
        action_valid=[[turn.action_valid and turn.format_valid for turn in each] for each in turns],
        successes=successes(group),
        state_keys=[[turn.state_key for turn in each] for each in turns],
        observation_keys=[[turn.observation_key for turn in each] for each in turns],
        observations=[[turn.observation for turn in each] for each in turns],
        lengths=[[len(turn.loss_mask) for turn in each] for each in turns],
        entropies=entropies,
        rows=[_row_numbers(each) for each in group.trajectories] if growing else None,
    )


def turn_entropies(
    groups: Sequence[Group], entropy_fn: Callable[[Sequence[TrainingSample]], list[float]]
) -> list[list[list[float]]]:
    """Return mean token entropies in nats, indexed [group][trajectory][turn].

    `entropy_fn` gets one sample for each turn, and returns the mean token entropy of each sample.
    """
    samples = [
        training_sample(prompt, [turn], [0.0], temperature=group.sampling.temperature)
        for group in groups
        for trajectory in group.trajectories
        for prompt, turn in zip(trajectory.prompts(), trajectory.turns, strict=True)
    ]
    entropies = iter(entropy_fn(samples))
    return [[[next(entropies) for _ in each.turns] for each in group.trajectories] for group in groups]


def score(
    recipe: Recipe,
    groups: Sequence[Group],
    staleness_policy: StalenessPolicy,
    *,
    invalid_penalty: float,
    max_response_tokens: int,
    entropy_fn: Callable[[Sequence[TrainingSample]], list[float]] | None = None,
    no_action_turns: Literal["mask", "keep"] = "mask",
    growing: bool = False,
) -> list[ScoredGroup]:
    """Compute advantages over complete groups, and decide which trajectories are usable (may be trained on).

    Stale members (episodes) are not usable, but their rewards count in the mean and standard deviation of the group. If
    `no_action_turns` is "mask", members that have a turn without an action are treated like stale members. SimpleTIR
    (arXiv 2509.02479) instead sets the loss of these members to 0. With the aggregations `token_mean` and
    `seq_mean_token_mean` the loss equals SimpleTIR's. With `seq_mean_token_sum` and `seq_mean_token_sum_norm` the loss
    is larger than SimpleTIR's by the factor (all rows / remaining rows).

    `entropy_fn` returns the mean token entropy of each sample. It is called only if the estimator needs entropies
    (EMPG). `growing` decides what a row is (see `group_rewards`). Call `training_samples` with the same `growing`: with
    `stat_unit` "row", mean and standard deviation are computed over these rows.

    Raises:
        NotFinite: rewards, entropies or advantages of a group are not finite.
    """
    _require_finite("rewards or the sum of their squares", groups, [rewards_fit(group) for group in groups])
    entropies: Sequence[list[list[float]] | None] = [None] * len(groups)
    if ADVANTAGES[recipe.advantage].uses_entropies and entropy_fn is not None:
        measured = turn_entropies(groups, entropy_fn)
        _require_finite("entropies under the policy", groups, map(_all_finite, measured))
        entropies = measured
    scored = compute_advantages(
        recipe,
        [group_rewards(group, each, growing=growing) for group, each in zip(groups, entropies, strict=True)],
        invalid_penalty=invalid_penalty,
        max_response_tokens=max_response_tokens,
    )
    _require_finite("advantages", groups, [_all_finite(given.total) for given in scored])

    def usable(trajectory: Trajectory) -> bool:
        return staleness_policy.usable(trajectory) and not (no_action_turns == "mask" and has_no_action(trajectory))

    return [
        ScoredGroup(group, given, tuple(map(usable, group.trajectories)))
        for group, given in zip(groups, scored, strict=True)
    ]


def rewards_fit(group: Group) -> bool:
    """True if the rewards of `group` are finite, and the sum of their squares cannot overflow float32."""
    rewards = [abs(turn.reward) for trajectory in group.trajectories for turn in trajectory.turns]
    total = sum(rewards)
    return len(rewards) * total * total <= MAX_SUM_OF_SQUARES  # False for NaN


def _all_finite(values: Sequence[Sequence[float]]) -> bool:
    return all(math.isfinite(value) for turns in values for value in turns)


def _require_finite(name: str, groups: Sequence[Group], finite: Iterable[bool]) -> None:
    bad = [group.id for group, is_finite in zip(groups, finite, strict=True) if not is_finite]
    if bad:
        raise NotFinite(f"{name} are not finite in {'group' if len(bad) == 1 else 'groups'} {', '.join(bad)}")


def training_samples(
    groups: Sequence[ScoredGroup], current_digest: str, advantage_scale: float = 1.0, *, growing: bool = False
) -> list[TrainingSample]:
    """Return the samples of all usable trajectories.

    There is one sample for each turn. If `growing` is True, there is one sample for each conversation (consecutive
    turns with a growing context). Usable trajectories (`TrainingSample.trajectory`) and samples
    (`TrainingSample.number`) are numbered from 0 over all `groups`. A sample is `fresh` if the weights with the digest
    `current_digest` sampled all its tokens. Advantages are multiplied by `advantage_scale`.
    """
    samples: list[TrainingSample] = []
    number = 0
    for scored in groups:
        temperature = scored.group.sampling.temperature
        for trajectory, credit, usable in zip(
            scored.group.trajectories, scored.advantages.total, scored.usable, strict=True
        ):
            if not usable:
                continue
            scaled, prompts = [advantage * advantage_scale for advantage in credit], trajectory.prompts()
            for first, last in trajectory.conversations() if growing else _each_turn(trajectory):
                turns = trajectory.turns[first:last]
                fresh = all(span.version.digest == current_digest for turn in turns for span in turn.spans)
                given = prompts[first], turns, scaled[first:last], number
                sample = training_sample(*given, fresh=fresh, temperature=temperature)
                samples.append(replace(sample, number=len(samples)))
            number += 1
    return samples


def training_sample(
    prompt: IdArray,
    turns: Sequence[Turn],
    advantages: Sequence[float],
    trajectory: int = 0,
    *,
    fresh: bool = True,
    temperature: float = 1.0,
) -> TrainingSample:
    """Build one sample from consecutive `turns`. The prompt of each turn must continue the previous turn.

    `prompt`: the prompt of the first turn. `advantages`: the advantage of each turn. `trajectory`: the index of the
    episode within the optimiser step. Tokens between two responses (tool output) have mask 0.
    """
    tokens, behaviour, mask, sizes = [], [], [], []
    for turn, following in zip(turns, [*turns[1:], None], strict=True):
        between = np.zeros(0, dtype=np.int32) if following is None else following.new_prompt()
        tokens += [turn.tokens(), between]
        behaviour += [turn.behaviour_logprobs(), np.zeros(len(between), dtype=np.float32)]
        mask += [turn.mask(), np.zeros(len(between), dtype=np.uint8)]
        sizes.append(len(turn.loss_mask) + len(between))
    return TrainingSample(
        prompt=prompt,
        response=np.concatenate(tokens),
        behaviour=np.concatenate(behaviour),
        mask=np.concatenate(mask),
        turns=tuple(zip(sizes, advantages, strict=True)),
        trajectory=trajectory,
        fresh=fresh,
        temperature=temperature,
    )


def _each_turn(trajectory: Trajectory) -> list[tuple[int, int]]:
    return [(number, number + 1) for number in range(len(trajectory.turns))]


def _row_numbers(trajectory: Trajectory) -> list[int]:
    return [number for number, (first, last) in enumerate(trajectory.conversations()) for _ in range(first, last)]


def minibatches(groups: Sequence[ScoredGroup], minibatch_groups: int, seed: int) -> list[list[ScoredGroup]]:
    """Split `groups` randomly into minibatches of about `minibatch_groups` groups.

    The result depends on `seed` and the group ids, but not on the order of arrival.

    All rows of a group are in one minibatch, for two reasons. First, the rows of an episode may share one importance
    ratio, and all log-probs of a ratio must be computed with the same weights. Second, tokens that the rows of a group
    share are then computed only once.

    If the filter keeps few groups, there are fewer minibatches of the usual size, because updates on small minibatches
    are noisy.
    """
    order = sorted(groups, key=lambda scored: scored.group.id)
    random.Random(seed).shuffle(order)
    count = min(updates_of(len(order), minibatch_groups), len(order))
    return [order[i::count] for i in range(count)]
