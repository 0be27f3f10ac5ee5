"""The one container that every loss reads: response tokens of many rows, laid end to end.

Legend of sizes: N response tokens of this micro-batch, R rows, U turns, J trajectories. Prompt tokens and padding
never enter, so a packed and a padded batch are the same batch. A *row* is what one sequence of the model holds: one
turn in windowed environments, a whole episode where the context grows (then U > R, and `turn_of_token` says which
token belongs to which turn).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch of rows; rows are never split over micro-batches, trajectories may be.

    Attributes:
        log_probs: [N] log π_θ of the sampled tokens, the only tensor besides `entropy` that carries gradient.
        old_log_probs: [N] log-probabilities of the anchor: the sampler's (`bypass`) or the trainer's own at the start
            of the step (`decoupled`).
        mask: [N] bool or 0/1; 1 on tokens that the policy sampled. Values at masked tokens are never read.
        row_of_token: [N] int64 in [0, R).
        trajectory_of_row: [R] int64 in [0, J). J may number all trajectories of the step, not just those present.
        advantages: [R], or [U] where `turn_of_token` is given.
        ref_log_probs: [N] log-probabilities of the reference policy, for the k3 term.
        behaviour_log_probs: [N] log-probabilities of the sampler, for the correction of a decoupled anchor.
        entropy: [N] entropy of the policy at each token in nats, for the bonus.
        row_weights: [R] how many equal rows this one stands for (see `Denominators.count`). Its advantage is then the
            **sum** over those rows, which must share the sign of A; the weight multiplies KL, entropy and counts.
        turn_of_token: [N] int64 in [0, U); None means that each row is one turn.
        sequence_log_ratio: [J] mean log-ratio of each whole trajectory, detached (`clipping.sequence_log_ratio`).
            Needed at ratio level `trajectory` as soon as a trajectory spans two micro-batches.

    Raises:
        ValueError: a tensor's shape does not fit the others; the message names it.
    """

    log_probs: Tensor
    old_log_probs: Tensor
    mask: Tensor
    row_of_token: Tensor
    trajectory_of_row: Tensor
    advantages: Tensor
    ref_log_probs: Tensor | None = None
    behaviour_log_probs: Tensor | None = None
    entropy: Tensor | None = None
    row_weights: Tensor | None = None
    turn_of_token: Tensor | None = None
    sequence_log_ratio: Tensor | None = None

    def __post_init__(self) -> None:
        """Check shapes and the types of indices."""
        per_token = ("log_probs", "old_log_probs", "mask", "row_of_token", "ref_log_probs", "behaviour_log_probs")
        for name in (*per_token, "entropy", "turn_of_token"):
            _check_shape(name, getattr(self, name), self.n_tokens, "token")
        _check_shape("row_weights", self.row_weights, self.n_rows, "row")
        if self.turn_of_token is None:
            _check_shape("advantages", self.advantages, self.n_rows, "row")
        for name in ("row_of_token", "trajectory_of_row", "turn_of_token"):
            index = getattr(self, name)
            if index is not None and index.dtype != torch.int64:
                raise ValueError(f"{name} holds {index.dtype}; indices are torch.int64")

    @property
    def n_tokens(self) -> int:
        """N, masked tokens included."""
        return self.log_probs.shape[0]

    @property
    def n_rows(self) -> int:
        """R, rows without a single sampled token included."""
        return self.trajectory_of_row.shape[0]

    @property
    def n_trajectories(self) -> int:
        """J: as many as `sequence_log_ratio` names, else one more than the largest index present."""
        if self.sequence_log_ratio is not None:
            return self.sequence_log_ratio.shape[0]
        return int(self.trajectory_of_row.max()) + 1 if self.n_rows else 0

    def live(self) -> Tensor:
        """[N] bool: the tokens that the loss reads."""
        return self.mask.bool()

    def counts(self) -> Tensor:
        """[N] weight of each token in counts and means: 0 where masked, else the weight of its row."""
        live = self.live().to(compute_dtype(self.log_probs))
        return live if self.row_weights is None else live * self.row_weights.to(live)[self.row_of_token]

    def clean(self, values: Tensor) -> Tensor:
        """[N] `values`, 0 at masked tokens: what lies there, NaN included, reaches neither loss nor gradient."""
        values = values.to(compute_dtype(self.log_probs))
        return torch.where(self.live(), values, torch.zeros_like(values))

    def token_advantages(self) -> Tensor:
        """[N] the advantage of each token's turn, detached; 0 where masked."""
        unit = self.row_of_token if self.turn_of_token is None else self.turn_of_token
        return self.clean(self.advantages.detach()[unit])


def compute_dtype(values: Tensor) -> torch.dtype:
    """Float64 stays; anything narrower is computed in float32 (bfloat16 has 8 bits, and 3e-3 is a clip range)."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def segment_sum(values: Tensor, segment: Tensor, size: int) -> Tensor:
    """[size] sums of `values` [N] by `segment` [N]; differentiable."""
    return torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, segment, values)


def _check_shape(name: str, value: Tensor | None, size: int, unit: str) -> None:
    if value is not None and tuple(value.shape) != (size,):
        raise ValueError(f"{name} has shape {tuple(value.shape)}; one value a {unit} makes it ({size},)")
