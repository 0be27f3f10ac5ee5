"""Defines the input and output types of advantage estimators. The output has one advantage per turn.

GiGPO compares the turns of a group that have the same anchor: the state or observation before the turn. Overlong
shaping (DAPO) is a penalty for long responses. EMPG weights advantages by entropy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

STAT_UNITS = ("turn", "row", "trajectory")
# Fields of `GroupRewards` with one value per turn. These fields must have the shape of `rewards`.
_PER_TURN = ("action_valid", "state_keys", "observation_keys", "observations", "lengths", "entropies", "rows")

T = TypeVar("T")
Turns = Sequence[Sequence[T]]
Values = list[list[float]]


@dataclass(frozen=True, slots=True)
class GroupRewards:
    """The data of one group (episodes of one task), indexed by trajectory and turn.

    Attributes:
        rewards: raw environment reward of each turn, without penalties.
        action_valid: False for turns with an invalid action or format; None: all turns are valid.
        returns: raw return of each trajectory; None: the sum of the trajectory's rewards.
        successes: whether each trajectory solved the task.
        state_keys: the environment's hash of the state *before* each turn; needed for the anchor `state`.
        observation_keys: hash of the observation shown at each turn; needed for the anchor `observation`.
        observations: text of the observation shown at each turn; needed for the anchor `similar`.
        lengths: number of sampled tokens of each response; needed for overlong shaping.
        entropies: mean token entropy of each response, in nats; needed for EMPG.
        rows: for each turn, the index of the row (training sequence) that contains the turn. Turns of one trajectory
            with equal indices are in the same row. None: every turn is a row.

    Raises:
        ValueError: a field has another number of trajectories or turns than `rewards`, or a reward, return or entropy
            is not finite.
    """

    rewards: Turns[float]
    action_valid: Turns[bool] | None = None
    returns: Sequence[float] | None = None
    successes: Sequence[bool] | None = None
    state_keys: Turns[str] | None = None
    observation_keys: Turns[str] | None = None
    observations: Turns[str] | None = None
    lengths: Turns[int] | None = None
    entropies: Turns[float] | None = None
    rows: Turns[int] | None = None

    def __post_init__(self) -> None:
        """Check shapes and finiteness."""
        sizes = [len(turns) for turns in self.rewards]
        for name in _PER_TURN:
            value: Turns[object] | None = getattr(self, name)
            if value is not None and [len(turns) for turns in value] != sizes:
                given = [len(turns) for turns in value]
                raise ValueError(f"{name} has {given} turns per trajectory, but rewards has {sizes}")
        for name in ("returns", "successes"):
            per_trajectory: Sequence[object] | None = getattr(self, name)
            if per_trajectory is not None and len(per_trajectory) != len(sizes):
                raise ValueError(f"{name} has {len(per_trajectory)} trajectories, but rewards has {len(sizes)}")
        _check_finite("reward", self.rewards)
        _check_finite("return", [self.episode_returns()])
        _check_finite("entropy", self.entropies or [])

    def episode_returns(self) -> list[float]:
        """Return the raw return of each trajectory."""
        if self.returns is not None:
            return [float(value) for value in self.returns]
        return [math.fsum(turns) for turns in self.rewards]

    def invalid(self) -> list[list[bool]]:
        """Return, for each turn, whether its action or format is invalid."""
        if self.action_valid is None:
            return [[False] * len(turns) for turns in self.rewards]
        return [[not valid for valid in turns] for turns in self.action_valid]


@dataclass(frozen=True, slots=True)
class AdvantageConfig:
    """Hyperparameters of all estimators. Each estimator uses only some of them.

    An advantage has an episode part, computed from returns of episodes. GiGPO adds a step part, computed from step
    returns. A step return is the discounted sum of the rewards from one turn to the end of the episode.

    Attributes:
        stat_unit: the unit that contributes one value to the mean and standard deviation of rewards. `row`: each row,
            so an episode with more rows weighs more. `turn`: each turn, even if a row has several turns. `trajectory`:
            each episode. If every row has one turn, `row` and `turn` have the same effect.
        scale: the divisor of the episode part: `std` (standard deviation), or `none` (no division, as in Dr.GRPO).
        step_scale: the divisor of the step part: `std` or `none`. In GiGPO's mode `mean_std`, both divisors are `std`.
            In its mode `mean`, both are `none`.
        omega: weight ω of the step part.
        gamma: discount factor of step returns.
        anchor: GiGPO compares the turns of a group that have the same anchor. `state`: the same state key.
            `observation`: the same observation key. `similar`: observation texts with a similarity of at least
            `similarity`.
        similarity: the minimum similarity (0 to 1) for the anchor `similar`.
        entropy_k: EMPG's k. A larger k gives smaller advantages to turns with high entropy.
        entropy_k_next: EMPG's k'. A larger k' gives a smaller bonus to a turn if the next turn has high entropy.
        entropy_zeta: EMPG's ζ, the weight of this bonus.
        invalid_penalty: penalty for a turn with an invalid action or format. It is subtracted from the reward and from
            the step return of the turn.
        overlong_tokens: the limit L of a response for overlong shaping, in tokens; None: no overlong shaping.
    """

    stat_unit: str = "row"
    scale: str = "std"
    step_scale: str = "std"
    omega: float = 1.0
    gamma: float = 0.95
    anchor: str = "state"
    similarity: float = 0.95
    entropy_k: float = 1.0
    entropy_k_next: float = 1.0
    entropy_zeta: float = 0.05
    invalid_penalty: float = 0.1
    overlong_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """Advantages of one group, indexed by trajectory and turn.

    If the estimator has no step part, `step` and `anchor_sizes` are empty.

    Attributes:
        total: the advantage that the loss uses.
        episode: the episode part A_E, computed from returns of episodes. EMPG later multiplies A_E by a weight.
        step: the step part A_S, computed from step returns, before the multiplication by ω.
        anchor_sizes: for each turn, the number of turns in the group with the same anchor, including this turn.
    """

    total: Values
    episode: Values
    step: Values = field(default_factory=list)
    anchor_sizes: list[list[int]] = field(default_factory=list)


def _check_finite(name: str, values: Turns[float]) -> None:
    for i, turns in enumerate(values):
        for k, value in enumerate(turns):
            if not math.isfinite(value):
                raise ValueError(f"{name} [{i}][{k}] is {value}; it must be finite")
