"""The four dimensions composed: one pure function from a micro-batch to (loss, metrics)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from arlarena.trainer.objectives import kl
from arlarena.trainer.objectives.aggregation import AGGREGATIONS, Denominators
from arlarena.trainer.objectives.batch import Batch
from arlarena.trainer.objectives.clipping import (
    CLIPS,
    Terms,
    behaviour_correction,
    clip_counts,
    importance_ratio,
    sequence_mask,
)
from arlarena.trainer.objectives.recipes import Recipe

CORRECTIONS = ("none", "truncate", "icepop", "geometric")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """Terms of the loss that belong to the run, not to the method.

    Attributes:
        kl_coefficient: weight of k3 to the reference.
        entropy_coefficient: weight of the entropy bonus (subtracted).
        correction: what π_old/μ does under a decoupled anchor, see `behaviour_correction`. The policy term alone is
            weighted.
        correction_low, correction_high: bounds of that ratio; `truncate` reads the upper one alone. 2 is the usual
            bound of truncated importance sampling; IcePop uses 0.5 and 5.
    """

    kl_coefficient: float = 0.0
    entropy_coefficient: float = 0.0
    correction: str = "none"
    correction_low: float = 0.5
    correction_high: float = 2.0

    def __post_init__(self) -> None:
        """Check names and signs."""
        if self.correction not in CORRECTIONS:
            raise ValueError(f"unknown correction {self.correction!r}; one of {', '.join(CORRECTIONS)}")
        if self.kl_coefficient < 0 or self.entropy_coefficient < 0:
            raise ValueError(f"coefficients are at least 0, got {self}")
        if not 0 <= self.correction_low < 1 < self.correction_high:
            raise ValueError(f"the bounds of a correction lie on both sides of 1, got {self}")


def policy_loss(
    recipe: Recipe, batch: Batch, denominators: Denominators, run: LossConfig | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's share of the step's loss, to be *summed* over micro-batches (and ranks), never averaged.

    Args:
        recipe: the method.
        batch: rows of the micro-batch. Nothing sampled in it gives a zero that is still connected to the graph.
        denominators: counts of the whole optimiser step.
        run: reference KL, entropy bonus, correction; None means none of them. They are aggregated like the policy term.

    Returns:
        (scalar loss, metrics). Metrics are detached scalars that already carry the global denominator: they add over
        micro-batches and ranks, except those named `…_max` and `…_min` (see `merge_metrics`).

    Raises:
        ValueError: a coefficient needs a tensor that the batch lacks.
    """
    run = run or LossConfig()
    weights = AGGREGATIONS[recipe.aggregation](batch, denominators, recipe.length_norm)
    ratio = importance_ratio(batch, recipe.ratio_level, literal=recipe.literal)
    terms = Terms(log_probs=batch.log_probs.to(batch.dtype), ratio=ratio, advantages=batch.token_advantages())
    kept = _kept_rows(recipe, batch)
    policy_weights = weights * kept.to(weights)[batch.row_of_token]
    correction = None
    if run.correction != "none":
        correction = behaviour_correction(batch, run.correction, run.correction_low, run.correction_high)
        policy_weights = policy_weights * correction
    policy = (policy_weights * _surrogate(recipe, terms)).sum()
    reference, bonus = _reference_kl(batch, weights, run), _entropy_bonus(batch, weights, run)
    loss = policy + run.kl_coefficient * reference - run.entropy_coefficient * bonus
    metrics = _metrics(recipe, batch, denominators, terms, kept, correction)
    metrics |= {"loss": loss.detach(), "policy_loss": policy.detach()}
    return loss, metrics


def _surrogate(recipe: Recipe, terms: Terms) -> Tensor:
    """[N] the loss of each token."""
    losses = CLIPS[recipe.clip].surrogate(terms, recipe.clip_config)
    if losses.shape != terms.ratio.shape:
        raise ValueError(
            f"clip {recipe.clip!r} gave losses of shape {tuple(losses.shape)}; one value a token makes it "
            f"{tuple(terms.ratio.shape)}"
        )
    return losses


def _kept_rows(recipe: Recipe, batch: Batch) -> Tensor:
    """[R] bool: rows whose policy term counts."""
    if recipe.mask == "sequence":
        return sequence_mask(batch, recipe.mask_delta)
    return torch.ones(batch.n_rows, dtype=torch.bool, device=batch.log_probs.device)


def _reference_kl(batch: Batch, weights: Tensor, run: LossConfig) -> Tensor:
    if run.kl_coefficient == 0:
        return weights.new_zeros(())
    if batch.ref_log_probs is None:
        raise ValueError("kl_coefficient is above 0 but the batch has no ref_log_probs")
    return (weights * kl.k3(batch.log_probs.to(batch.dtype), batch.ref_log_probs.to(batch.dtype))).sum()


def _entropy_bonus(batch: Batch, weights: Tensor, run: LossConfig) -> Tensor:
    if run.entropy_coefficient == 0:
        return weights.new_zeros(())
    if batch.entropy is None:
        raise ValueError("entropy_coefficient is above 0 but the batch has no entropy")
    return (weights * batch.entropy.to(batch.dtype)).sum()


@torch.no_grad()
def _metrics(
    recipe: Recipe, batch: Batch, denominators: Denominators, terms: Terms, kept: Tensor, correction: Tensor | None
) -> dict[str, Tensor]:
    """Means over the step's tokens (shares of rows for the mask), detached."""
    tokens, dtype, log_probs = denominators.tokens or 1.0, batch.dtype, terms.log_probs
    sums = clip_counts(terms, recipe.clip_config)
    if correction is not None:
        dropped = correction == 0
        sums["correction_mean"] = correction.sum()
        sums["corrected_away_negative"] = (dropped & (terms.advantages < 0)).sum(dtype=dtype)
        sums["corrected_away_positive"] = (dropped & (terms.advantages > 0)).sum(dtype=dtype)
    sums["ratio_mean"] = terms.ratio.sum()
    sums["off_policy_kl"] = kl.off_policy_kl(log_probs, batch.old_log_probs.to(dtype)).sum()
    if batch.ref_log_probs is not None:
        sums["reference_kl"] = kl.k3(log_probs, batch.ref_log_probs.to(dtype)).sum()
    if batch.entropy is not None:
        sums["entropy"] = batch.entropy.to(dtype).sum()
    metrics = {name: value / tokens for name, value in sums.items()}
    if recipe.mask == "sequence":
        metrics["rows_masked"] = (~kept).sum(dtype=dtype) / (denominators.live_rows or 1.0)
    if batch.n_tokens:
        metrics["ratio_max"], metrics["ratio_min"] = terms.ratio.max(), terms.ratio.min()
    return metrics


def merge_metrics(parts: Iterable[Mapping[str, Tensor | float]]) -> dict[str, float]:
    """The step's metrics from those of its micro-batches or ranks: sums, and extremes for `…_max` and `…_min`."""
    merged: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            number = float(value)
            if name not in merged:
                merged[name] = number
            elif name.endswith("_max"):
                merged[name] = max(merged[name], number)
            elif name.endswith("_min"):
                merged[name] = min(merged[name], number)
            else:
                merged[name] += number
    return merged
