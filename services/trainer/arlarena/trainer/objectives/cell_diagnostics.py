"""Computes diagnostics of rows (training sequences) in eight cells.

A cell is a combination of the sign of the advantage A, high or low entropy, and a ratio above or below 1. ARLArena
(arXiv 2602.21534) splits the KL of a collapsing run by these cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from arlarena.trainer.objectives.batch import Batch, segment_sum
from arlarena.trainer.objectives.clipping import log_ratio

# ARLArena's threshold between low and high entropy of a response, in nats.
ENTROPY_THRESHOLD = 0.45

CELLS = tuple(
    f"{sign}/{entropy}/{ratio}"
    for sign in ("negative", "positive")
    for entropy in ("low_entropy", "high_entropy")
    for ratio in ("ratio_below", "ratio_above")
)


@dataclass(frozen=True, slots=True)
class CellTable:
    """Sums by cell, each [8] float64 in the order of `CELLS`. Tables of micro-batches, ranks and steps can be added.

    Δ is log π_θ - log π_old of a token.

    Attributes:
        rows: number of rows with a sampled token and A ≠ 0.
        tokens: number of sampled tokens of these rows.
        kl: sum of e^Δ - Δ - 1 over these tokens, an estimate of KL(π_old ‖ π_θ) that is never negative.
        off_policy_kl: sum of -Δ over these tokens, an estimate of KL(π_old ‖ π_θ) that may be negative.
    """

    rows: Tensor
    tokens: Tensor
    kl: Tensor
    off_policy_kl: Tensor

    def __add__(self, other: CellTable) -> CellTable:
        """Return the sums of both tables."""
        return CellTable(
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.kl + other.kl,
            self.off_policy_kl + other.off_policy_kl,
        )

    def row_shares(self) -> dict[str, float]:
        """Return each cell's share of the rows. The shares sum to 1. If there are no rows, all shares are 0."""
        total = float(self.rows.sum())
        return {name: float(value) / total if total > 0 else 0.0 for name, value in zip(CELLS, self.rows, strict=True)}

    def kl_shares(self) -> dict[str, float]:
        """Return each cell's share of `kl`. The shares sum to 1. If `kl` is 0 in all cells, all shares are 0."""
        total = float(self.kl.sum())
        return {name: float(value) / total if total > 0 else 0.0 for name, value in zip(CELLS, self.kl, strict=True)}


@torch.no_grad()
def cell_table(batch: Batch, threshold: float = ENTROPY_THRESHOLD) -> CellTable:
    """Return the sums over the rows of `batch` in each of the eight cells.

    The advantage A, the entropy and the log-ratio of a row are means over the row's sampled tokens. An entropy above
    `threshold` (in nats) is high. A ratio of exactly 1 counts as above 1. Rows with A = 0 are left out.

    Raises:
        ValueError: the batch has no entropy.
    """
    if batch.entropy is None:
        raise ValueError("the batch has no entropy; the table of cells needs the entropy of each token")
    delta = log_ratio(batch).double()

    def row_sum(values: Tensor) -> Tensor:
        return segment_sum(values.double(), batch.row_of_token, batch.n_rows)

    tokens = row_sum(batch.token_ones())
    advantage, row_delta = row_sum(batch.token_advantages()), row_sum(delta)
    high = row_sum(batch.entropy) > threshold * tokens
    cell = 4 * (advantage > 0).long() + 2 * high.long() + (row_delta >= 0).long()
    used = (advantage != 0) & (tokens > 0)

    def by_cell(values: Tensor) -> Tensor:
        return segment_sum(values[used], cell[used], len(CELLS))

    k3 = row_sum(delta.exp() - delta - 1.0)
    return CellTable(by_cell(torch.ones_like(tokens)), by_cell(tokens), by_cell(k3), by_cell(-row_delta))
