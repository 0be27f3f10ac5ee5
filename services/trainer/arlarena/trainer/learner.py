"""One optimiser step after another: rows in, new weights and figures out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from arlarena.trainer.logprobs import microbatch_log_probs
from arlarena.trainer.model import frozen_copy
from arlarena.trainer.objectives import (
    Batch,
    CellTable,
    Denominators,
    Mismatch,
    Recipe,
    RunTerms,
    cell_table,
    merge_metrics,
    mismatch,
    policy_loss,
    sequence_log_ratio,
    sequence_sums,
)
from arlarena.trainer.optim import adamw, set_rate
from arlarena.trainer.packing import MicroBatch, Row, micro_batches
from arlarena.trainer.settings import TrainerSettings


class Learner:
    """The policy, its frozen reference and the optimiser."""

    def __init__(
        self, policy: PreTrainedModel, reference: PreTrainedModel | None, recipe: Recipe, settings: TrainerSettings
    ) -> None:
        """Take `policy` as it is; `reference` None means a frozen copy of it, or nothing where no KL is asked for."""
        self.policy = policy
        self.recipe = recipe
        self.settings = settings
        self.reference = reference or (frozen_copy(policy) if settings.kl_coefficient > 0 else None)
        self.optimizer = adamw(policy.parameters(), settings.lr, settings.betas, settings.weight_decay)
        self.terms = RunTerms(
            kl_coefficient=settings.kl_coefficient,
            entropy_coefficient=settings.entropy_coefficient,
            correction="none" if settings.policy_anchor == "bypass" else "truncate",
        )

    def update(self, minibatches: Sequence[Sequence[Row]], rate: float) -> dict[str, float]:
        """Take one optimiser step a minibatch at the learning rate `rate`, and return the means of their metrics.

        With the `decoupled` anchor, π_old is this policy before the first of them. Without a single row the weights
        stay.
        """
        if not minibatches:
            return {"grad_norm": 0.0, "mismatch_k3": 0.0, "mismatch_max": 0.0, "mismatch_tokens": 0.0}
        # The literal ratio is differentiable through a whole trajectory, which must then be whole in one micro-batch.
        limit = sys.maxsize if self.recipe.literal else self.settings.tokens_per_microbatch
        cut = [list(micro_batches(rows, limit)) for rows in minibatches]
        before = [[self._measure(batch) for batch in batches] for batches in cut] if self._needs_old() else None
        set_rate(self.optimizer, rate)
        parts: list[dict[str, float]] = []
        cells: CellTable | None = None
        gap = Mismatch(0.0, 0.0, 0)
        for i, batches in enumerate(cut):
            found, table, seen = self._one_update(batches, before[i] if before else None)
            parts.append(found)
            cells = table if cells is None else cells + table
            gap = seen if i == 0 else gap  # later minibatches meet weights that have moved
        metrics = _over_updates(parts)
        metrics["learning_rate"] = rate
        metrics |= {"mismatch_k3": gap.mean_k3, "mismatch_max": gap.max_abs, "mismatch_tokens": float(gap.tokens)}
        if cells is not None:
            metrics |= {f"kl_share/{name}": share for name, share in cells.kl_shares().items()}
        return metrics

    @torch.no_grad()
    def mean_entropies(self, rows: Sequence[Row]) -> list[float]:
        """The mean token entropy of each row's response under the present policy, in nats (EMPG's Ĥ before scaling)."""
        found = [0.0] * len(rows)
        numbered = [replace(row, trajectory=number) for number, row in enumerate(rows)]
        for micro in micro_batches(numbered, self.settings.tokens_per_microbatch):
            entropies = self._forward(micro)[1] * micro.mask
            size = len(micro.trajectory_of_row)
            sums = torch.zeros(size).index_add(0, micro.row_of_token, entropies)
            counts = torch.zeros(size).index_add(0, micro.row_of_token, micro.mask.float())
            means = sums / counts.clamp(min=1.0)
            for number, mean in zip(micro.trajectory_of_row.tolist(), means.tolist(), strict=True):
                found[number] = mean
        return found

    def _needs_old(self) -> bool:
        return self.settings.policy_anchor == "decoupled"

    def _one_update(
        self, batches: Sequence[MicroBatch], old: Sequence[Tensor] | None
    ) -> tuple[dict[str, float], CellTable, Mismatch]:
        shells = [self._batch(batch, batch.behaviour, None, old[i] if old else None) for i, batch in enumerate(batches)]
        denominators = Denominators.count(shells)
        ratios = self._trajectory_ratios(batches, old)
        self.optimizer.zero_grad(set_to_none=True)
        metrics: list[dict[str, Tensor]] = []
        tables: list[CellTable] = []
        sampler: list[tuple[Tensor, Tensor, Tensor]] = []
        for i, micro in enumerate(batches):
            log_probs, entropies = self._forward(micro)
            batch = self._batch(micro, log_probs, entropies, old[i] if old else None, self._reference(micro), ratios)
            loss, found = policy_loss(self.recipe, batch, denominators, self.terms)
            loss.backward()  # type: ignore[no-untyped-call]
            metrics.append(found)
            tables.append(cell_table(batch))
            sampler.append((log_probs.detach(), micro.behaviour, micro.mask & micro.fresh))
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        gap = mismatch(*(torch.cat(column) for column in zip(*sampler, strict=True)))
        return merge_metrics(metrics) | {"grad_norm": float(norm)}, sum(tables[1:], tables[0]), gap

    def _forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        return microbatch_log_probs(self.policy, batch, self.settings.temperature, self.settings.logits_chunk_tokens)

    @torch.no_grad()
    def _measure(self, batch: MicroBatch) -> Tensor:
        return self._forward(batch)[0]

    @torch.no_grad()
    def _reference(self, batch: MicroBatch) -> Tensor | None:
        if self.reference is None:
            return None
        chunk = self.settings.logits_chunk_tokens
        return microbatch_log_probs(self.reference, batch, self.settings.temperature, chunk)[0]

    def _trajectory_ratios(self, batches: Sequence[MicroBatch], old: Sequence[Tensor] | None) -> Tensor | None:
        """Mean log-ratio of each trajectory by a pass without gradient; None where one micro-batch holds every row
        anyway.
        """
        if self.recipe.ratio_level != "trajectory" or len(batches) < 2:
            return None
        trajectories = 1 + max(int(batch.trajectory_of_row.max()) for batch in batches)
        sums = counts = torch.zeros(trajectories)
        for i, micro in enumerate(batches):
            batch = self._batch(micro, self._measure(micro), None, old[i] if old else None)
            part_sums, part_counts = sequence_sums(batch, trajectories)
            sums, counts = sums + part_sums, counts + part_counts
        return sequence_log_ratio(sums, counts)

    def _batch(
        self,
        micro: MicroBatch,
        log_probs: Tensor,
        entropies: Tensor | None,
        old: Tensor | None,
        reference: Tensor | None = None,
        ratios: Tensor | None = None,
    ) -> Batch:
        return Batch(
            log_probs=log_probs,
            old_log_probs=micro.behaviour if old is None else old,
            mask=micro.mask,
            row_of_token=micro.row_of_token,
            trajectory_of_row=micro.trajectory_of_row,
            advantages=micro.advantages,
            ref_log_probs=reference,
            behaviour_log_probs=micro.behaviour,
            entropy=entropies,
            sequence_log_ratio=ratios,
        )


def _over_updates(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over the step's updates; extremes for `…_max` and `…_min`, which an update without a token lacks."""
    merged: dict[str, float] = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        values = [part[key] for part in parts if key in part]
        if key.endswith(("_max", "_min")):
            merged[key] = max(values) if key.endswith("_max") else min(values)
        else:
            merged[key] = sum(values) / len(values)
    return merged
