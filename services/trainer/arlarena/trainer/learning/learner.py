"""Optimiser steps on training samples. With several ranks, each rank computes a share of the micro-batches."""

from __future__ import annotations

import functools
import math
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from arlarena.proto.trajectory import FloatArray
from arlarena.trainer.batching.packing import MicroBatch, TrainingSample, empty_micro_batch, micro_batches
from arlarena.trainer.learning.optimizer import adamw, set_rate
from arlarena.trainer.learning.ranks import Ranks
from arlarena.trainer.learning.row_figures import FigureCollector, RowFigures
from arlarena.trainer.model.forward import Scorer
from arlarena.trainer.model.policy import frozen_copy
from arlarena.trainer.objectives import (
    Batch,
    CellTable,
    Denominators,
    LossConfig,
    Mismatch,
    Recipe,
    cell_table,
    merge_metrics,
    mismatch,
    policy_loss,
    sequence_log_ratio,
    sequence_sums,
)
from arlarena.trainer.settings import TrainerSettings

# A step without training samples has only these metrics, with the value 0.
_WITHOUT_ROWS = (
    *("grad_norm", "mismatch_k3", "mismatch_max", "mismatch_tokens"),
    *("updates_applied", "updates_skipped"),
)


@dataclass(frozen=True, slots=True)
class _Update:
    """The result of one update.

    `gap`: difference of the trainer's and the sampler's log-probs. `applied`: whether the optimiser step was taken.
    """

    metrics: dict[str, float]
    cells: CellTable
    gap: Mismatch
    applied: bool


class Learner:
    """Trains the policy. Holds the policy, the frozen reference policy and the optimiser.

    A rank is one of the processes that train the policy together. All ranks must call each public method (except
    `is_sharded`) with equal arguments, and get equal results. In a call of `restore`, only rank 0 needs the values of
    sharded tensors. A row is one training sample.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        reference: PreTrainedModel | None,
        recipe: Recipe,
        settings: TrainerSettings,
        ranks: Ranks | None = None,
    ) -> None:
        """Prepare to train `policy` in place.

        `reference`: the reference policy. If it is None and `kl_coefficient` is above 0, a frozen copy of `policy` is
        the reference policy.
        """
        self.ranks = ranks or Ranks()
        self.recipe = recipe
        self.settings = settings
        reference = reference or (frozen_copy(policy) if settings.kl_coefficient > 0 else None)
        self.scorer = self._place(policy, trained=True)
        self.reference = None if reference is None else self._place(reference, trained=False)
        self.skipped_minibatches: list[int] = []  # indices of the minibatches that the newest `update` skipped
        self.row_figures: list[dict[int, RowFigures]] = []  # of the newest `update`, by minibatch and row number
        self.optimizer = adamw(self.scorer.parameters(), settings.lr, settings.betas, settings.weight_decay)
        self.terms = LossConfig(
            kl_coefficient=settings.kl_coefficient,
            entropy_coefficient=settings.entropy_coefficient,
            correction=settings.correction or ("truncate" if settings.policy_anchor == "decoupled" else "none"),
            correction_low=settings.correction_low,
            correction_high=settings.correction_high,
        )

    @property
    def policy(self) -> PreTrainedModel:
        """The model that is trained."""
        return self.scorer.model

    def update(
        self, minibatches: Sequence[Sequence[TrainingSample]], rate: float, recorded: Sequence[Sequence[int]] = ()
    ) -> dict[str, float]:
        """Take one optimiser step for each minibatch at the learning rate `rate`. Returns the metrics of the step.

        With policy anchor `decoupled`, the denominator of the importance ratio is the policy before the first of these
        steps. With `bypass`, the denominator is the sampler's policy.

        If the loss or the gradient norm of an update is not finite, the update is skipped on all ranks: weights and
        optimiser state do not change. `skipped_minibatches` is set to the indices of the minibatches with skipped
        updates. The metrics are those of the applied updates (see `_step_metrics`).

        `recorded`: for each minibatch, numbers of trajectories (`TrainingSample.trajectory`). `row_figures` is set to
        the figures that the loss used for the tokens of these trajectories.
        """
        self.skipped_minibatches, self.row_figures = [], []
        if not minibatches:
            return dict.fromkeys(_WITHOUT_ROWS, 0.0)
        cut = [self._split(rows, single=self.recipe.literal) for rows in minibatches]
        before = None
        if self.settings.policy_anchor == "decoupled":
            before = [[self._current_log_probs(batch) for batch in self._on_device(batches)] for batches in cut]
        set_rate(self.optimizer, rate)
        updates = []
        for i, batches in enumerate(cut):
            episodes = 1 + max(row.trajectory for row in minibatches[i])
            figures = FigureCollector(recorded[i] if recorded else (), self.recipe.clip_config)
            updates.append(self._one_update(batches, before[i] if before else None, episodes, figures))
            self.row_figures.append(figures.gather(self.ranks) if figures.chosen else {})
        self.skipped_minibatches = [i for i, update in enumerate(updates) if not update.applied]
        return _step_metrics(updates) | {"learning_rate": rate}

    @torch.no_grad()
    def mean_entropies(self, rows: Sequence[TrainingSample]) -> list[float]:
        """Return the mean token entropy of each row's response under the current policy, in nats.

        If a weight is NaN, the results are NaN.
        """
        sums, counts = torch.zeros(2, len(rows), dtype=torch.float64)
        for micro in self._on_device(self._split([replace(row, trajectory=number) for number, row in enumerate(rows)])):
            place = micro.trajectory_of_row[micro.row_of_token].cpu()
            entropies = self.scorer(micro, entropy="measured")[1].double().cpu()
            sums.index_add_(0, place, entropies)
            counts.index_add_(0, place, torch.ones_like(entropies))
        means: list[float] = (self.ranks.all_reduce(sums) / self.ranks.all_reduce(counts).clamp(min=1.0)).tolist()
        return means

    @torch.no_grad()
    def log_probs(self, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
        """Return the log-probs of `response` after `prompt` under the current policy at temperature 1, in nats.

        The layers compute in float32, even if the setting `precision` is "bfloat16". Only sharded layers compute in
        the dtype `precision`.
        """
        ids = [np.asarray(part, dtype=np.int32) for part in (prompt, response)]
        unused: FloatArray = np.zeros(len(response), dtype=np.float32)
        turns = ((len(response), 0.0),)
        row = TrainingSample(ids[0], ids[1], unused, np.ones(len(response), dtype=np.uint8), turns)
        (micro,) = micro_batches([row], sys.maxsize)
        result: list[float] = self.scorer(micro.to(self.scorer.device), entropy="none", exact=True)[0].tolist()
        return result

    def weights(self) -> dict[str, Tensor]:
        """Return the full (unsharded) weights on the CPU, by name. Tied weights are one tensor object."""
        named = self.policy.state_dict(keep_vars=True)
        full = {id(value): _full_tensor(value) for value in named.values()}
        return {name: full[id(value)] for name, value in named.items()}

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the full (unsharded) state of the optimiser on the CPU. A key is `<parameter index>.<name>`."""
        state = self.optimizer.state_dict()["state"]
        return {
            f"{index}.{name}": _full_tensor(torch.as_tensor(value))
            for index, values in state.items()
            for name, value in values.items()
        }

    def restore(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Load weights and optimiser state. Their formats are those of the methods `weights` and `optimizer_state`.

        For tied weights (one tensor with several names), one name is enough.

        Raises:
            RuntimeError, ValueError, KeyError: the tensors belong to another model.
        """
        own = self.policy.state_dict(keep_vars=True)
        given = {id(own[name]): value for name, value in weights.items() if name in own}
        missing = {name for name, value in own.items() if id(value) not in given}
        if differing := missing | (set(weights) - set(own)):
            raise KeyError(f"weights differ by name; only the model or only the checkpoint has {sorted(differing)[:5]}")
        with torch.no_grad():
            for value in own.values():
                value.copy_(_sharded_like(value, given[id(value)]))
        parameters, state = self._parameters, dict[int, dict[str, Tensor]]()
        for key, value in optimizer.items():
            index, _, name = key.partition(".")
            parameter = parameters[int(index)]
            state.setdefault(int(index), {})[name] = _sharded_like(parameter, value) if value.dim() else value
        state_dict = self.optimizer.state_dict()
        state_dict["state"] = state
        self.optimizer.load_state_dict(state_dict)

    def is_sharded(self, kind: str, name: str, value: Tensor) -> bool:
        """Whether `restore` shards the tensor `name` over the ranks. `kind`: "weights" or "optimizer"."""
        if kind == "weights":
            return isinstance(self.policy.state_dict(keep_vars=True).get(name), DTensor)
        return value.dim() > 0 and isinstance(self._parameters[int(name.partition(".")[0])], DTensor)

    @property
    def _parameters(self) -> list[Tensor]:
        """The parameters in the order of the optimiser's state."""
        return [value for group in self.optimizer.param_groups for value in group["params"]]

    def _place(self, model: PreTrainedModel, *, trained: bool) -> Scorer:
        """Return `model` as a `Scorer` on this rank's device, sharded if there are several ranks."""
        settings, device = self.settings, torch.device(self.settings.torch_device())
        if device.type == "cuda":
            torch.cuda.set_device(device)  # FSDP and NCCL use the current device
        scorer = Scorer(model, settings.logits_chunk_tokens, settings.precision).to(device)
        if trained and settings.activation_checkpointing:
            scorer.checkpoint_layers()
        if self.ranks.count > 1:
            scorer.shard(self.ranks.count)
        return scorer

    def _split(self, rows: Sequence[TrainingSample], *, single: bool = False) -> list[MicroBatch]:
        """Split `rows` into micro-batches, and return the micro-batches of this rank.

        All ranks get the same number of micro-batches, so some micro-batches may be empty. `single`: put all rows into
        one micro-batch. The literal form of the importance ratio needs a single micro-batch, because the ratio is
        computed from all rows of a trajectory, and the gradient flows through the ratio.
        """
        limit = sys.maxsize if single else self.settings.tokens_per_microbatch
        if self.ranks.count > 1 and not single:  # smaller micro-batches, so that each rank gets at least one
            tokens = sum(len(row.prompt) + len(row.response) for row in rows)
            limit = min(limit, math.ceil(tokens / self.ranks.count))
        cut = self.ranks.shard(list(micro_batches(rows, limit)))
        return [empty_micro_batch() if batch is None else batch for batch in cut]

    def _on_device(self, batches: Iterable[MicroBatch]) -> Iterator[MicroBatch]:
        """Yield `batches` on the policy's device, one by one, because the device may have no memory for all of them."""
        return (batch.to(self.scorer.device) for batch in batches)

    def _one_update(
        self, batches: Sequence[MicroBatch], old: Sequence[Tensor] | None, episodes: int, figures: FigureCollector
    ) -> _Update:
        without_log_probs = [self._batch(batch, batch.behaviour, None, None) for batch in batches]
        counted = torch.tensor(Denominators.count(without_log_probs).as_tuple(), dtype=torch.float64)
        denominators = Denominators(*self.ranks.all_reduce(counted).tolist())
        ratios = self._trajectory_ratios(batches, old, episodes)
        self.optimizer.zero_grad(set_to_none=True)
        parts: list[dict[str, Tensor]] = []
        tables: list[CellTable] = []
        sampler: list[tuple[Tensor, Tensor, Tensor]] = []
        entropy = "trained" if self.terms.entropy_coefficient > 0 else "measured"
        for i, micro in enumerate(self._on_device(batches)):
            log_probs, entropies = self.scorer(micro, entropy=entropy)
            batch = self._batch(micro, log_probs, entropies, old[i] if old else None, self._reference(micro), ratios)
            observe = functools.partial(figures.observe, micro, batch) if figures.chosen else None
            loss, loss_metrics = policy_loss(self.recipe, batch, denominators, self.terms, observe)
            (loss * self.ranks.count).backward()  # type: ignore[no-untyped-call]  # FSDP averages gradients over ranks
            parts.append(loss_metrics)
            tables.append(cell_table(batch))
            sampler.append((log_probs.detach(), micro.behaviour, micro.fresh))
        norm = torch.nn.utils.clip_grad_norm_(self.scorer.parameters(), self.settings.gradient_clip)
        metrics = merge_metrics(self.ranks.gather(merge_metrics(parts))) | {"grad_norm": float(_full_tensor(norm))}
        # Loss and gradient norm are equal on all ranks, so all ranks apply the update or no rank does.
        applied = math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])
        if applied:
            self.optimizer.step()
        else:
            self.optimizer.zero_grad(set_to_none=True)
        gap = mismatch(*(torch.cat(column) for column in zip(*sampler, strict=True)))
        return _Update(metrics, self._sum_cells(tables), self._merge_mismatch(gap), applied)

    def _current_log_probs(self, batch: MicroBatch) -> Tensor:
        """Return the log-probs under the current policy, without gradient."""
        return self._log_probs(self.scorer, batch)

    def _reference(self, batch: MicroBatch) -> Tensor | None:
        return None if self.reference is None else self._log_probs(self.reference, batch)

    @torch.no_grad()
    def _log_probs(self, scorer: Scorer, batch: MicroBatch) -> Tensor:
        result: tuple[Tensor, None] = scorer(batch, entropy="none")
        return result[0]

    def _trajectory_ratios(
        self, batches: Sequence[MicroBatch], old: Sequence[Tensor] | None, episodes: int
    ) -> Tensor | None:
        """Return the mean log-ratio of each trajectory [`episodes`], computed by a forward pass without gradient.

        Returns None if the forward pass is not needed: the recipe has no ratio per trajectory, or one micro-batch
        contains all rows. In the second case, the loss computes the ratio.
        """
        if self.recipe.ratio_level != "trajectory" or self.recipe.literal or len(batches) * self.ranks.count < 2:
            return None
        totals = torch.zeros(2, episodes, dtype=torch.float64)
        for i, micro in enumerate(self._on_device(batches)):
            batch = self._batch(micro, self._current_log_probs(micro), None, old[i] if old else None)
            totals += torch.stack(sequence_sums(batch, episodes)).cpu()
        sums, counts = self.ranks.all_reduce(totals).to(self.scorer.device)
        return sequence_log_ratio(sums, counts)

    def _sum_cells(self, tables: Sequence[CellTable]) -> CellTable:
        mine = sum(tables[1:], tables[0])
        columns = torch.stack([mine.rows, mine.tokens, mine.kl, mine.off_policy_kl])
        return CellTable(*self.ranks.all_reduce(columns))

    def _merge_mismatch(self, mine: Mismatch) -> Mismatch:
        parts = self.ranks.gather([mine.mean_k3, mine.max_abs, mine.tokens])
        tokens = sum(part[2] for part in parts)
        mean = sum(part[0] * part[2] for part in parts) / max(1, tokens)
        return Mismatch(mean, max(part[1] for part in parts), tokens)

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
            row_of_token=micro.row_of_token,
            trajectory_of_row=micro.trajectory_of_row,
            advantages=micro.advantages,
            ref_log_probs=reference,
            behaviour_log_probs=micro.behaviour,
            entropy=entropies,
            turn_of_token=micro.turn_of_token,
            sequence_log_ratio=ratios,
        )


def _full_tensor(value: Tensor) -> Tensor:
    """Return `value` unsharded on the CPU, detached. If `value` is sharded, all ranks must make this call."""
    result = value.full_tensor() if isinstance(value, DTensor) else value
    return result.detach().cpu()


def _sharded_like(own: Tensor, value: Tensor) -> Tensor:
    """Return `value` on the device of `own`, sharded like `own`. If `own` is sharded, all ranks must make this call."""
    moved = value.to(own.device)
    return distribute_tensor(moved, own.device_mesh, own.placements) if isinstance(own, DTensor) else moved


def first_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor with a value that is NaN or infinite; None if all values are finite."""
    checked: set[int] = set()
    for name, value in weights.items():
        if id(value) in checked or not value.is_floating_point() or not value.numel():
            continue
        checked.add(id(value))
        # Minimum and maximum are NaN if any value is NaN. `torch.isfinite` would allocate a bool for each value.
        if not all(math.isfinite(float(extreme)) for extreme in torch.aminmax(value)):
            return name
    return None


def _step_metrics(updates: Sequence[_Update]) -> dict[str, float]:
    """Return the metrics of a step, merged over the applied updates (`_merge_updates`).

    If no update was applied, merge over all updates, and leave out metrics that are NaN or infinite.
    """
    applied = [update for update in updates if update.applied]
    used = applied or updates
    metrics = _merge_updates([update.metrics for update in used])
    gap = used[0].gap  # only the first update, because later updates start from changed weights
    metrics |= {"mismatch_k3": gap.mean_k3, "mismatch_max": gap.max_abs, "mismatch_tokens": float(gap.tokens)}
    cells = functools.reduce(operator.add, [update.cells for update in used])
    metrics |= {f"kl_share/{name}": share for name, share in cells.kl_shares().items()}
    metrics |= {f"rows_share/{name}": share for name, share in cells.row_shares().items()}
    metrics |= {"updates_applied": float(len(applied)), "updates_skipped": float(len(updates) - len(applied))}
    return metrics if applied else {name: value for name, value in metrics.items() if math.isfinite(value)}


def _merge_updates(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Merge the metrics of updates: the maximum for names that end in `_max`, the minimum for `_min`, else the mean.

    If an update lacks a metric, the metric is merged from the other updates. For example, an update without tokens has
    no `ratio_max`.
    """
    merged: dict[str, float] = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        values = [part[key] for part in parts if key in part]
        if key.endswith(("_max", "_min")):
            merged[key] = max(values) if key.endswith("_max") else min(values)
        else:
            merged[key] = sum(values) / len(values)
    return merged
