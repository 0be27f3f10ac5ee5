"""The one container that every loss reads: the sampled tokens of many rows, laid end to end.

Legend of sizes: N sampled tokens of this micro-batch, R rows, U turns, J trajectories. Prompt tokens, padding and
tokens that the policy did not sample are left out. A *row* is what one sequence of the model holds: one
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
        row_of_token: [N] int64 in [0, R).
        trajectory_of_row: [R] int64 in [0, J). J may number all trajectories of the step, not just those present.
        advantages: [R], or [U] where `turn_of_token` is given.
        ref_log_probs: [N] log-probabilities of the reference policy, for the k3 term.
        behaviour_log_probs: [N] log-probabilities of the sampler, for the correction of a decoupled anchor.
        entropy: [N] entropy of the policy at each token in nats, for the bonus.
        turn_of_token: [N] int64 in [0, U); None means that each row is one turn.
        sequence_log_ratio: [J] mean log-ratio of each whole trajectory, detached (`clipping.sequence_log_ratio`).
            Needed at ratio level `trajectory` as soon as a trajectory spans two micro-batches.

    Raises:
        ValueError: a tensor's shape does not fit the others; the message names it.
    """

    log_probs: Tensor
    old_log_probs: Tensor
    row_of_token: Tensor
    trajectory_of_row: Tensor
    advantages: Tensor
    ref_log_probs: Tensor | None = None
    behaviour_log_probs: Tensor | None = None
    entropy: Tensor | None = None
    turn_of_token: Tensor | None = None
    sequence_log_ratio: Tensor | None = None

    def __post_init__(self) -> None:
        """Check shapes and the types of indices."""
        per_token = ("log_probs", "old_log_probs", "row_of_token", "ref_log_probs", "behaviour_log_probs")
        for name in (*per_token, "entropy", "turn_of_token"):
            _check_shape(name, getattr(self, name), self.n_tokens, "token")
        if self.turn_of_token is None:
            _check_shape("advantages", self.advantages, self.n_rows, "row")
        for name in ("row_of_token", "trajectory_of_row", "turn_of_token"):
            index = getattr(self, name)
            if index is not None and index.dtype != torch.int64:
                raise ValueError(f"{name} holds {index.dtype}; indices are torch.int64")

    @property
    def n_tokens(self) -> int:
        """N, the sampled tokens."""
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

    @property
    def dtype(self) -> torch.dtype:
        """Of the computation: that of float64 `log_probs`, else float32 (bfloat16 has 8 bits, a clip range is 3e-3)."""
        return torch.float64 if self.log_probs.dtype == torch.float64 else torch.float32

    def token_ones(self) -> Tensor:
        """[N] ones in `dtype`: the weights of a plain sum over tokens."""
        return torch.ones_like(self.log_probs, dtype=self.dtype)

    def token_advantages(self) -> Tensor:
        """[N] the advantage of each token's turn, detached, in `dtype`."""
        unit = self.row_of_token if self.turn_of_token is None else self.turn_of_token
        return self.advantages.detach()[unit].to(self.dtype)


def segment_sum(values: Tensor, segment: Tensor, size: int) -> Tensor:
    """[size] sums of `values` [N] by `segment` [N]; differentiable."""
    return torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, segment, values)


def _check_shape(name: str, value: Tensor | None, size: int, unit: str) -> None:
    if value is not None and tuple(value.shape) != (size,):
        raise ValueError(f"{name} has shape {tuple(value.shape)}; one value a {unit} makes it ({size},)")
