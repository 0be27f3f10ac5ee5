"""Diagnostics by cell: rows by sign of A, by high or low entropy, by ratio above or below 1.

The cells are those by which the paper breaks down the KL of a collapsing run (ARLArena, arXiv 2602.21534).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from arlarena.trainer.objectives.batch import Batch, segment_sum
from arlarena.trainer.objectives.clipping import log_ratio

# Nats; the paper's threshold between a confident and an unsure response.
ENTROPY_THRESHOLD = 0.45

CELLS = tuple(
    f"{sign}/{entropy}/{ratio}"
    for sign in ("negative", "positive")
    for entropy in ("low_entropy", "high_entropy")
    for ratio in ("ratio_below", "ratio_above")
)


@dataclass(frozen=True, slots=True)
class CellTable:
    """Sums by cell, each [8] float64 in the order of `CELLS`; tables add over micro-batches, ranks and steps.

    Attributes:
        rows: rows with a sampled token and A ≠ 0.
        tokens: their sampled tokens.
        kl: Σ e^Δ - Δ - 1 over them, an estimate of KL(π_old ‖ π_θ) that no cell can make negative.
        off_policy_kl: Σ log π_old - log π_θ over them, signed.
    """

    rows: Tensor
    tokens: Tensor
    kl: Tensor
    off_policy_kl: Tensor

    def __add__(self, other: CellTable) -> CellTable:
        """Sums of both parts."""
        return CellTable(
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.kl + other.kl,
            self.off_policy_kl + other.off_policy_kl,
        )

    def row_shares(self) -> dict[str, float]:
        """Each cell's share of the rows, summing to 1; all 0 where there is none."""
        total = float(self.rows.sum())
        return {name: float(value) / total if total > 0 else 0.0 for name, value in zip(CELLS, self.rows, strict=True)}

    def kl_shares(self) -> dict[str, float]:
        """Each cell's share of the KL of all cells, summing to 1; all 0 where nothing has moved."""
        total = float(self.kl.sum())
        return {name: float(value) / total if total > 0 else 0.0 for name, value in zip(CELLS, self.kl, strict=True)}


@torch.no_grad()
def cell_table(batch: Batch, threshold: float = ENTROPY_THRESHOLD) -> CellTable:
    """Sort the rows of `batch` into the eight cells.

    A row's A, entropy and log-ratio are means over its sampled tokens; entropy is high above `threshold`; a ratio of
    exactly 1 counts as above. Rows with A = 0 pull in no direction and are left out.

    Raises:
        ValueError: the batch has no entropy.
    """
    if batch.entropy is None:
        raise ValueError("the table of cells needs the entropy of each token")
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
