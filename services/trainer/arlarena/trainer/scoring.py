"""From collected groups to rows with advantages: whole groups are scored first, then stale members are dropped."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from arlarena.proto.trajectory import Group, Trajectory
from arlarena.trainer.objectives import GroupAdvantages, GroupRewards, Recipe, compute_advantages
from arlarena.trainer.packing import Row
from arlarena.trainer.settings import updates_of


@dataclass(frozen=True, slots=True)
class Freshness:
    """Which samples may be trained on at `step`.

    Attributes:
        step: the optimiser step about to be taken, whose policy has version `step`.
        staleness: how many steps behind a sample may be.
        known: step by digest, of every version that belongs to this run's history. Samples of other digests were
            drawn by a policy that a crash erased, and count as stale.
    """

    step: int
    staleness: int
    known: Mapping[str, int]

    def age(self, trajectory: Trajectory) -> int | None:
        """Steps between the oldest weights that sampled a token of it and now; None if unknown weights took part."""
        steps = [self.known.get(span.version.digest) for turn in trajectory.turns for span in turn.spans]
        known = [step for step in steps if step is not None]
        return None if len(known) < len(steps) or not known else self.step - min(known)

    def usable(self, trajectory: Trajectory) -> bool:
        """Whether it may be trained on."""
        age = self.age(trajectory)
        return age is not None and age <= self.staleness


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with the advantage of each turn of each trajectory, and which trajectories may be trained on."""

    group: Group
    advantages: GroupAdvantages
    usable: tuple[bool, ...]


def successes(group: Group) -> list[bool]:
    """Whether each trajectory solved its task."""
    return [trajectory.success for trajectory in group.trajectories]


def returns(group: Group) -> list[float]:
    """The raw return of each trajectory."""
    return [trajectory.total_reward for trajectory in group.trajectories]


def group_rewards(group: Group, entropies: list[list[float]] | None = None) -> GroupRewards:
    """What the advantage estimators read of a group. A turn is valid if its format and its action both are."""
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
    )


def turn_entropies(groups: Sequence[Group], measure: Callable[[Sequence[Row]], list[float]]) -> list[list[list[float]]]:
    """Mean token entropies [group][trajectory][turn] by `measure`, which takes one row a turn."""
    turns = [turn for group in groups for trajectory in group.trajectories for turn in trajectory.turns]
    rows = [Row(turn.prompt(), turn.tokens(), turn.behaviour_logprobs(), turn.mask(), 0.0, 0) for turn in turns]
    found = iter(measure(rows))
    return [[[next(found) for _ in each.turns] for each in group.trajectories] for group in groups]


def score(
    recipe: Recipe,
    groups: Sequence[Group],
    freshness: Freshness,
    *,
    invalid_penalty: float,
    max_response_tokens: int,
    measure: Callable[[Sequence[Row]], list[float]] | None = None,
) -> list[ScoredGroup]:
    """Advantages over whole groups, stale members included in the statistics but not among the usable.

    `measure` gives the mean token entropy of each row; only estimators that weigh by entropy (EMPG) ask for it.
    """
    entropies: Sequence[list[list[float]] | None] = [None] * len(groups)
    if recipe.advantage == "empg" and measure is not None:
        entropies = turn_entropies(groups, measure)
    scored = compute_advantages(
        recipe,
        [group_rewards(group, each) for group, each in zip(groups, entropies, strict=True)],
        invalid_penalty=invalid_penalty,
        max_response_tokens=max_response_tokens,
    )
    return [
        ScoredGroup(group, given, tuple(freshness.usable(trajectory) for trajectory in group.trajectories))
        for group, given in zip(groups, scored, strict=True)
    ]


def rows_of(groups: Sequence[ScoredGroup], current_digest: str, advantage_scale: float) -> list[Row]:
    """One row a turn of every usable trajectory; trajectories are numbered through `groups`."""
    rows: list[Row] = []
    number = 0
    for scored in groups:
        for trajectory, credit, usable in zip(
            scored.group.trajectories, scored.advantages.total, scored.usable, strict=True
        ):
            if not usable:
                continue
            for turn, advantage in zip(trajectory.turns, credit, strict=True):
                rows.append(
                    Row(
                        prompt=turn.prompt(),
                        response=turn.tokens(),
                        behaviour=turn.behaviour_logprobs(),
                        mask=turn.mask(),
                        advantage=advantage * advantage_scale,
                        trajectory=number,
                        fresh=all(span.version.digest == current_digest for span in turn.spans),
                    )
                )
            number += 1
    return rows


def minibatches(groups: Sequence[ScoredGroup], size: int, seed: int) -> list[list[ScoredGroup]]:
    """Deal whole groups into minibatches of about `size`, in an order that depends on `seed` alone.

    Whole groups, because rows that one ratio joins must meet the same weights, and because equal rows are then computed
    once. A fixed size and not a fixed number: a batch that the filter left small would else give noisy updates.
    """
    order = list(groups)
    random.Random(seed).shuffle(order)
    count = min(updates_of(len(order), size), len(order))
    return [order[i::count] for i in range(count)]
