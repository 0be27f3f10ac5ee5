"""Defines the input of every loss: the sampled tokens of many rows, concatenated.

A *row* is one training sequence: one turn, or consecutive turns of an episode with a growing context. If a row has
several turns, `turn_of_token` is the turn of each token. Prompt tokens, padding and tokens that the policy did not
sample are left out. Sizes: N sampled tokens of this micro-batch, R rows, U turns, J trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch of rows. A row is in one micro-batch, but a trajectory may have rows in several micro-batches.

    Attributes:
        log_probs: [N] log π_θ of the sampled tokens under the policy. Only `log_probs` and `entropy` have a gradient.
        old_log_probs: [N] log π_old, the log-probs under the policy in the denominator of the importance ratio. With
            policy anchor `bypass`, π_old is the sampler's policy. With `decoupled`, π_old is the trainer's policy at
            the start of the training step.
        row_of_token: [N] int64 in [0, R).
        trajectory_of_row: [R] int64 in [0, J). J may include trajectories without a row in this micro-batch.
        advantages: [R] advantage of each row, or [U] advantage of each turn if `turn_of_token` is given.
        ref_log_probs: [N] log-probs of the reference policy, for the KL term.
        behaviour_log_probs: [N] log-probs of the sampler, for the correction with policy anchor `decoupled`.
        entropy: [N] entropy of the policy at each token in nats, for the entropy bonus.
        turn_of_token: [N] int64 in [0, U); None means that each row is one turn.
        sequence_log_ratio: [J] mean log-ratio over all tokens of each trajectory, detached
            (`clipping.sequence_log_ratio`). This field is needed at ratio level `trajectory` if a trajectory has rows
            in several micro-batches.

    Raises:
        ValueError: the shape of a tensor does not fit. The message names the tensor.
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
                raise ValueError(f"{name} has dtype {index.dtype}; indices must be torch.int64")

    @property
    def n_tokens(self) -> int:
        """N, the number of sampled tokens."""
        return self.log_probs.shape[0]

    @property
    def n_rows(self) -> int:
        """R, the number of rows, including rows without sampled tokens."""
        return self.trajectory_of_row.shape[0]

    @property
    def n_trajectories(self) -> int:
        """J: the length of `sequence_log_ratio` if this field is given, else the largest trajectory index plus 1."""
        if self.sequence_log_ratio is not None:
            return self.sequence_log_ratio.shape[0]
        return int(self.trajectory_of_row.max()) + 1 if self.n_rows else 0

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the computation: float64 if `log_probs` are float64, else float32.

        bfloat16 is not used, because its 8 bits of precision are too few for a clip range of 0.003.
        """
        return torch.float64 if self.log_probs.dtype == torch.float64 else torch.float32

    def token_ones(self) -> Tensor:
        """Return ones [N] in `dtype`."""
        return torch.ones_like(self.log_probs, dtype=self.dtype)

    def token_advantages(self) -> Tensor:
        """Return the advantage of each token's turn: [N], detached, in `dtype`."""
        unit = self.row_of_token if self.turn_of_token is None else self.turn_of_token
        return self.advantages.detach()[unit].to(self.dtype)


def segment_sum(values: Tensor, segment: Tensor, size: int) -> Tensor:
    """Return sums [size]: element i is the sum of the `values` [N] whose `segment` [N] is i. Differentiable."""
    return torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, segment, values)


def _check_shape(name: str, value: Tensor | None, size: int, unit: str) -> None:
    if value is not None and tuple(value.shape) != (size,):
        raise ValueError(f"{name} has shape {tuple(value.shape)}; it must be ({size},), one value per {unit}")
