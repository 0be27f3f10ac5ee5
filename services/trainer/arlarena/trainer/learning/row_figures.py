"""Keeps what the loss used for each token of chosen episodes, from the forward pass of the update itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from torch import Tensor

from arlarena.proto.records.group_records import ABOVE, BELOW, TurnFigures
from arlarena.trainer.batching.packing import MicroBatch
from arlarena.trainer.learning.ranks import Ranks
from arlarena.trainer.objectives import Batch
from arlarena.trainer.objectives.clipping import ClipConfig, Terms

if TYPE_CHECKING:
    from collections.abc import Sequence


class RowFigures(msgspec.Struct, frozen=True, array_like=True):
    """The figures of one row (training sample) with S sampled tokens.

    `number`: `TrainingSample.number`. `values`: float32 [5, S], packed: log-prob, log π_old, entropy, ratio, log-prob
    of the reference policy. `clip`: uint8 [S], see `TurnFigures.clip`. `kept`: False if the sequence mask removed the
    row. `reference`: whether there is a reference policy. `old_is_sampler`: whether π_old is the sampler's policy.
    """

    number: int
    values: bytes
    clip: bytes
    kept: bool
    reference: bool
    old_is_sampler: bool

    def turns(self, sizes: Sequence[int]) -> list[TurnFigures]:
        """Return the figures of each turn of the row. `sizes`: number of sampled tokens of each turn."""
        table = np.frombuffer(self.values, dtype="<f4").reshape(5, -1)
        result, start = [], 0
        for size in sizes:
            log_probs, old, entropies, ratios, reference = (line[start : start + size].tobytes() for line in table)
            result.append(
                TurnFigures(
                    log_probs=log_probs,
                    entropies=entropies,
                    ratios=ratios,
                    clip=self.clip[start : start + size],
                    old_log_probs=b"" if self.old_is_sampler else old,
                    reference_log_probs=reference if self.reference else b"",
                    kept=self.kept,
                )
            )
            start += size
        return result


class FigureCollector:
    """Collects the figures of the rows of chosen trajectories during one update."""

    def __init__(self, chosen: Iterable[int], clip: ClipConfig) -> None:
        """`chosen`: trajectories of the minibatch (`TrainingSample.trajectory`). `clip`: bounds for the clip marks."""
        self.chosen = tuple(chosen)
        self._clip = clip
        self._rows: dict[int, RowFigures] = {}

    @torch.no_grad()
    def observe(self, micro: MicroBatch, batch: Batch, terms: Terms, kept: Tensor) -> None:
        """Store the figures of the chosen rows of one micro-batch. See `policy_loss` for `terms` and `kept`."""
        trajectories = micro.trajectory_of_row
        rows = torch.isin(trajectories, torch.tensor(self.chosen, device=trajectories.device))
        tokens = rows[micro.row_of_token]
        none = torch.zeros_like(terms.ratio)
        parts = (batch.log_probs, batch.old_log_probs, batch.entropy, terms.ratio, batch.ref_log_probs)
        table = torch.stack([none if part is None else part.to(none) for part in parts])[:, tokens].float().cpu()
        low, high = terms.ratio < 1.0 - self._clip.clip_low, terms.ratio > 1.0 + self._clip.clip_high
        clip = (low * BELOW + high * ABOVE)[tokens].to("cpu", torch.uint8)
        row_of_token = micro.row_of_token[tokens].cpu().numpy()
        for row in np.flatnonzero(rows.cpu().numpy()).tolist():
            first, last = np.searchsorted(row_of_token, [row, row + 1]).tolist()
            number = int(micro.number_of_row[row])
            self._rows[number] = RowFigures(
                number=number,
                values=table[:, first:last].numpy().astype("<f4").tobytes(),
                clip=clip[first:last].numpy().tobytes(),
                kept=bool(kept[row]),
                reference=batch.ref_log_probs is not None,
                old_is_sampler=batch.old_log_probs is micro.behaviour,
            )

    def gather(self, ranks: Ranks) -> dict[int, RowFigures]:
        """Return the rows of all ranks by number. All ranks must call this method."""
        if ranks.count == 1:
            return self._rows
        mine = base64.b64encode(msgspec.msgpack.encode(list(self._rows.values()))).decode()
        parts = [msgspec.msgpack.decode(base64.b64decode(each), type=list[RowFigures]) for each in ranks.gather(mine)]
        return {row.number: row for part in parts for row in part}
