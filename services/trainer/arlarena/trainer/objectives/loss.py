"""Computes the loss and the metrics of a micro-batch from the choices of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
        kl_coefficient: weight of the KL term, `kl.k3` to the reference policy.
        entropy_coefficient: weight of the entropy bonus. The weighted bonus is subtracted from the loss.
        correction: the rule that weights the policy term by π_old/μ: `none`, or a kind of `behaviour_correction`. π_old
            is the policy in the denominator of the importance ratio, and μ the sampler's policy. KL term and entropy
            bonus are not weighted.
        correction_low: lower bound of π_old/μ; not used by `truncate`. IcePop's value is 0.5.
        correction_high: upper bound of π_old/μ. Usual values are 2 for truncated importance sampling, 5 for IcePop.
    """

    kl_coefficient: float = 0.0
    entropy_coefficient: float = 0.0
    correction: str = "none"
    correction_low: float = 0.5
    correction_high: float = 2.0

    def __post_init__(self) -> None:
        """Check the name and the ranges."""
        if self.correction not in CORRECTIONS:
            raise ValueError(f"unknown correction {self.correction!r}; choose one of {', '.join(CORRECTIONS)}")
        if self.kl_coefficient < 0 or self.entropy_coefficient < 0:
            raise ValueError(f"coefficients must be at least 0, got {self}")
        if not 0 <= self.correction_low < 1 < self.correction_high:
            raise ValueError(f"correction_low must be in [0, 1) and correction_high above 1, got {self}")


def policy_loss(
    recipe: Recipe,
    batch: Batch,
    denominators: Denominators,
    run: LossConfig | None = None,
    observe: Callable[[Terms, Tensor], None] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the metrics of a micro-batch.

    The loss of the optimiser step is the *sum* of these losses over micro-batches and ranks, not their mean.

    Args:
        recipe: the method.
        batch: the micro-batch. If its rows have no sampled tokens, loss and gradient are 0.
        denominators: counts over all micro-batches and ranks of the optimiser step.
        run: KL term, entropy bonus and correction; None: only the policy term. KL term and entropy bonus are aggregated
            over tokens in the same way as the policy term.
        observe: called once with the input of the surrogate (`Terms`, [N]) and the row mask, bool [R]. A row with False
            is left out of the policy term.

    Returns:
        (scalar loss, metrics). Metrics are detached scalars, already divided by the counts of the optimiser step. The
        sum of a metric over micro-batches and ranks is the metric of the optimiser step. For names ending in `_max`,
        take the maximum instead of the sum, and for `_min` the minimum (`merge_metrics`).

    Raises:
        ValueError: a coefficient or the correction needs a tensor that the batch lacks.
    """
    run = run or LossConfig()
    weights = AGGREGATIONS[recipe.aggregation](batch, denominators, recipe.length_norm)
    ratio = importance_ratio(batch, recipe.ratio_level, literal=recipe.literal)
    terms = Terms(log_probs=batch.log_probs.to(batch.dtype), ratio=ratio, advantages=batch.token_advantages())
    kept = _row_mask(recipe, batch)
    if observe is not None:
        observe(terms, kept)
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
    """Return the loss [N] of each token before aggregation."""
    losses = CLIPS[recipe.clip].surrogate(terms, recipe.clip_config)
    if losses.shape != terms.ratio.shape:
        raise ValueError(
            f"clip {recipe.clip!r} returned losses of shape {tuple(losses.shape)}; it must be "
            f"{tuple(terms.ratio.shape)}, one value per token"
        )
    return losses


def _row_mask(recipe: Recipe, batch: Batch) -> Tensor:
    """Return bool [R]: False for rows that the sequence mask removes from the policy term."""
    if recipe.mask == "sequence":
        return sequence_mask(batch, recipe.mask_delta)
    return torch.ones(batch.n_rows, dtype=torch.bool, device=batch.log_probs.device)


def _reference_kl(batch: Batch, weights: Tensor, run: LossConfig) -> Tensor:
    if run.kl_coefficient == 0:
        return weights.new_zeros(())
    if batch.ref_log_probs is None:
        raise ValueError(
            "kl_coefficient is above 0, but the batch has no ref_log_probs; either give ref_log_probs, or set "
            "kl_coefficient to 0"
        )
    return (weights * kl.k3(batch.log_probs.to(batch.dtype), batch.ref_log_probs.to(batch.dtype))).sum()


def _entropy_bonus(batch: Batch, weights: Tensor, run: LossConfig) -> Tensor:
    if run.entropy_coefficient == 0:
        return weights.new_zeros(())
    if batch.entropy is None:
        raise ValueError(
            "entropy_coefficient is above 0, but the batch has no entropy; either give entropy, or set "
            "entropy_coefficient to 0"
        )
    return (weights * batch.entropy.to(batch.dtype)).sum()


@torch.no_grad()
def _metrics(
    recipe: Recipe, batch: Batch, denominators: Denominators, terms: Terms, kept: Tensor, correction: Tensor | None
) -> dict[str, Tensor]:
    """Return the metrics of this micro-batch.

    Sums are divided by the number of tokens of the optimiser step. There are two exceptions: `rows_masked` is divided
    by the number of rows with tokens in the optimiser step, and `ratio_max` and `ratio_min` are not divided.
    """
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
    """Merge the metrics of micro-batches or ranks: the sum, or the maximum (minimum) for names in `_max` (`_min`)."""
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
