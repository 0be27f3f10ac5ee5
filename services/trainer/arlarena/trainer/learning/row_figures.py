"""Collects the figures that the loss used for each token of selected episodes, such as log-probs and ratios."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from arlarena.proto.records.group_records import ABOVE, BELOW, TurnFigures
from arlarena.proto.trajectory import FloatArray
from arlarena.trainer.batching.packing import MicroBatch
from arlarena.trainer.learning.ranks import Ranks
from arlarena.trainer.objectives import Batch
from arlarena.trainer.objectives.clipping import ClipConfig, Terms


class RowFigures(msgspec.Struct, frozen=True, array_like=True):
    """The figures of one row (training sample) with S sampled tokens.

    `number`: `TrainingSample.number`. `values`: bytes of a float32 array [5, S]. The five lines are log-prob, log
    π_old, entropy, ratio, and log-prob of the reference policy. `clip`: uint8 [S], see `TurnFigures.clip`. `kept`:
    False if the sequence mask removed the row. `reference`: whether there is a reference policy. `old_is_sampler`:
    whether π_old is the sampler's policy.
    """

    number: int
    values: bytes
    clip: bytes
    kept: bool
    reference: bool
    old_is_sampler: bool

    def turns(self, sizes: Sequence[int]) -> list[TurnFigures]:
        """Return the figures of each turn of the row. `sizes`: number of sampled tokens of each turn."""
        length = len(self.clip)
        lines = [self.values[4 * length * line : 4 * length * (line + 1)] for line in range(5)]
        result, start = [], 0
        for size in sizes:
            log_probs, old, entropies, ratios, reference = (line[4 * start : 4 * (start + size)] for line in lines)
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


@dataclass(frozen=True, slots=True)
class _MicroFigures:
    """The figures of the chosen rows of one micro-batch.

    `table`: float32 [5, S], see `RowFigures.values`. `clip`: [S]. `rows` has three lists with one value for each row:
    `TrainingSample.number`, the number of sampled tokens, and whether the sequence mask kept the row (1 or 0).
    """

    table: FloatArray
    clip: bytes
    rows: tuple[list[int], list[int], list[int]]
    reference: bool
    old_is_sampler: bool

    def split(self) -> Iterator[RowFigures]:
        """Yield the figures of each row."""
        start = 0
        for number, size, kept in zip(*self.rows, strict=True):
            end = start + size
            values = self.table[:, start:end].tobytes()
            yield RowFigures(number, values, self.clip[start:end], bool(kept), self.reference, self.old_is_sampler)
            start = end


class FigureCollector:
    """Collects the figures of the chosen trajectories during one update."""

    def __init__(self, chosen: Iterable[int], clip: ClipConfig) -> None:
        """Store the arguments.

        `chosen`: numbers of trajectories of the minibatch (`TrainingSample.trajectory`). `clip`: the bounds of the
        importance ratio for the clip marks.
        """
        self.chosen = tuple(chosen)
        self._clip = clip
        self._parts: list[_MicroFigures] = []

    @torch.no_grad()
    def observe(self, micro: MicroBatch, batch: Batch, terms: Terms, kept: Tensor) -> None:
        """Store the figures of the chosen rows of one micro-batch.

        `batch`: the input of the loss for `micro`. `terms` and `kept`: see the argument `observe` of `policy_loss`.

        The method is fast (a few operations on large tensors), because it runs between forward and backward pass.
        """
        trajectories = micro.trajectory_of_row
        rows = torch.isin(trajectories, torch.tensor(self.chosen, device=trajectories.device))
        tokens = rows[micro.row_of_token]
        none = torch.zeros_like(terms.ratio)
        parts = (batch.log_probs, batch.old_log_probs, batch.entropy, terms.ratio, batch.ref_log_probs)
        table = torch.stack([none if part is None else part.to(none) for part in parts])[:, tokens].float().cpu()
        low, high = terms.ratio < 1.0 - self._clip.clip_low, terms.ratio > 1.0 + self._clip.clip_high
        sizes = torch.bincount(micro.row_of_token, minlength=len(rows))
        numbers, chosen_sizes, masks = torch.stack([micro.number_of_row, sizes, kept.to(sizes)])[:, rows].cpu().tolist()
        self._parts.append(
            _MicroFigures(
                table=table.numpy(),
                clip=(low * BELOW + high * ABOVE)[tokens].to("cpu", torch.uint8).numpy().tobytes(),
                rows=(numbers, chosen_sizes, masks),
                reference=batch.ref_log_probs is not None,
                old_is_sampler=batch.old_log_probs is micro.behaviour,
            )
        )

    def gather(self, ranks: Ranks) -> dict[int, RowFigures]:
        """Return the figures of the rows of all ranks, by `TrainingSample.number`. All ranks must call this method."""
        rows = [row for part in self._parts for row in part.split()]
        if ranks.count == 1:
            return {row.number: row for row in rows}
        mine = base64.b64encode(msgspec.msgpack.encode(rows)).decode()
        parts = [msgspec.msgpack.decode(base64.b64decode(each), type=list[RowFigures]) for each in ranks.gather(mine)]
        return {row.number: row for part in parts for row in part}
