"""Input and output types of advantage estimators: the data of a group in, one float per turn out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

STAT_UNITS = ("turn", "row", "trajectory")
# Fields of `GroupRewards` with one value per turn, except the rewards.
_PER_TURN = ("action_valid", "state_keys", "observation_keys", "observations", "lengths", "entropies", "rows")

T = TypeVar("T")
Turns = Sequence[Sequence[T]]
Values = list[list[float]]


@dataclass(frozen=True, slots=True)
class GroupRewards:
    """The data of one group, indexed by trajectory and turn.

    Attributes:
        rewards: raw environment reward of each turn.
        action_valid: False on turns whose action was invalid or whose reply was badly formatted; None means all valid.
        returns: raw return of each trajectory; None means the sum of its rewards.
        successes: whether each trajectory solved the task; the `success` filter reads it.
        state_keys: the environment's hash of the state *before* each turn (anchor `state`).
        observation_keys: hash of the observation shown at each turn (anchor `observation`).
        observations: text of that observation (anchor `similar`).
        lengths: sampled tokens of each response (overlong shaping).
        entropies: mean token entropy of each response, in nats (EMPG).
        rows: for each turn, the number of the row it is in; turns of one trajectory that have the same number are one
            row. None means that every turn is a row.

    Raises:
        ValueError: a field's shape differs from that of `rewards`, or a reward is not finite.
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
                raise ValueError(
                    f"{name} has turns {[len(turns) for turns in value]} a trajectory; rewards has {sizes}"
                )
        for name in ("returns", "successes"):
            per_trajectory: Sequence[object] | None = getattr(self, name)
            if per_trajectory is not None and len(per_trajectory) != len(sizes):
                raise ValueError(f"{name} names {len(per_trajectory)} trajectories; rewards has {len(sizes)}")
        _check_finite("reward", self.rewards)
        _check_finite("return", [self.episode_returns()])
        _check_finite("entropy", self.entropies or [])

    def episode_returns(self) -> list[float]:
        """The raw return of each trajectory."""
        if self.returns is not None:
            return [float(value) for value in self.returns]
        return [math.fsum(turns) for turns in self.rewards]

    def invalid(self) -> list[list[bool]]:
        """For each turn, whether the penalty applies."""
        if self.action_valid is None:
            return [[False] * len(turns) for turns in self.rewards]
        return [[not valid for valid in turns] for turns in self.action_valid]


@dataclass(frozen=True, slots=True)
class AdvantageConfig:
    """Hyperparameters of the estimators; each estimator uses some of them.

    Attributes:
        stat_unit: the unit with one value in the statistics. `row`: each row, so an episode with more rows weighs
        more. `turn`: each turn, also if a row has several. `trajectory`: each episode. `row` and `turn` are equal
        unless contexts grow.
        scale: `std` or `none` (Dr.GRPO) for the episode part; `step_scale` likewise for the step part. GiGPO's
            modes: `mean_std` is std + std, `mean` is none + none.
        omega: weight of the step part; `gamma`: discount of step returns.
        anchor: the key by which turns are compared: `state`, `observation` or `similar`, at least `similarity` alike.
        entropy_k, entropy_k_next, entropy_zeta: EMPG's k, k' and ζ.
        invalid_penalty: taken from the reward of a turn whose action or format was invalid, and from its step return.
        overlong_tokens: the response allowance L of overlong shaping; None leaves rewards alone.
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
    """Advantages of one group, indexed by trajectory and turn; empty lists where the estimator has no such part.

    Attributes:
        total: the advantage in the loss.
        episode: A_E before any weighting.
        step: A_S before ω.
        anchor_sizes: how many turns share each turn's anchor, itself included.
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
