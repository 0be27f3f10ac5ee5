"""Dimension two of ARLArena (arXiv 2602.21534), importance-sampling clipping: ratios, surrogates, the sequence mask.

PPO's clip: arXiv 1707.06347; GSPO: arXiv 2507.18071; CISPO: arXiv 2506.13585; SAPO: arXiv 2511.20347.

A surrogate maps one token's ratio, log-probability and advantage to a loss, which is minimised. The ratio's level is a
choice of its own: `token` is w_t = exp Δ_t; `turn`, `row` and `trajectory` share s_i = exp mean Δ over the unit's
tokens, in GSPO's token form sg(s_i) · exp(log π_θ - sg(log π_θ)), so that each token keeps its own advantage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from arlarena.trainer.objectives.batch import Batch, segment_sum
from arlarena.trainer.objectives.hyperparameters import hyperparameter
from arlarena.trainer.objectives.registry import RecipeError, Registry

# Δ is clamped before exp: e^20 is finite in float32 with room for a sum, and a ratio beyond it carries no information.
MAX_LOG_RATIO = 20.0

# A row is one sequence of the model: the unit of the release's "sequence" ratio. It is one turn where each turn has a
# prompt of its own, and all turns of a growing context together.
RATIO_LEVELS = ("token", "turn", "row", "trajectory")


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """Hyperparameters that every clip has. A clip with further ones declares a subclass.

    The metric `outside` counts the tokens beyond these bounds, also where the clip itself has no use for them.
    """

    clip_low: float = hyperparameter(0.2, "ε_lo: the lower bound of a ratio is 1 - ε_lo", above=0, at_most=1)
    clip_high: float = hyperparameter(0.2, "ε_hi: the upper bound of a ratio is 1 + ε_hi", above=0)


@dataclass(frozen=True, slots=True)
class PpoConfig(ClipConfig):
    """Hyperparameters of `ppo`."""

    dual_clip: float | None = hyperparameter(
        None, "c: where A < 0, a token's loss is at most -A c; none: no such bound", at_least=1
    )


@dataclass(frozen=True, slots=True)
class SapoConfig(ClipConfig):
    """Hyperparameters of `sapo`."""

    tau_positive: float = hyperparameter(1.0, "temperature of the gate where A > 0", above=0)
    tau_negative: float = hyperparameter(1.05, "temperature of the gate where A ≤ 0", above=0)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a surrogate sees, all [N]: `log_probs` and `ratio` carry gradient, `advantages` do not."""

    log_probs: Tensor
    ratio: Tensor
    advantages: Tensor


# ---- ratios ------------------------------------------------------------------------------------------------------


def log_ratio(batch: Batch) -> Tensor:
    """[N] Δ_t = log π_θ - log π_old, clamped to ±20."""
    delta = batch.log_probs.to(batch.dtype) - batch.old_log_probs.to(batch.dtype)
    return delta.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def importance_ratio(batch: Batch, level: str, *, literal: bool = False) -> Tensor:
    """[N] ratio of each token at `level`, in token form; `literal` shares one differentiable s_i instead.

    Literal, every token of the unit receives the gradient of the unit's *mean* advantage and step-level credit is
    gone: an ablation. It needs each unit whole, so it refuses a precomputed `sequence_log_ratio`.
    """
    delta = log_ratio(batch)
    if level == "token":
        return delta.exp()
    unit, size = _units(batch, level)
    if literal:
        if level == "trajectory" and batch.sequence_log_ratio is not None:
            raise ValueError(
                "the literal form needs every trajectory whole in one micro-batch; drop sequence_log_ratio"
            )
        return _segment_mean(delta, unit, size).exp()[unit]
    if level == "trajectory" and batch.sequence_log_ratio is not None:
        shared = batch.sequence_log_ratio.to(delta)
    else:
        shared = _segment_mean(delta, unit, size)
    log_probs = batch.log_probs.to(batch.dtype)
    return shared.detach().exp()[unit] * (log_probs - log_probs.detach()).exp()


@torch.no_grad()
def sequence_sums(batch: Batch, n_trajectories: int) -> tuple[Tensor, Tensor]:
    """(Σ Δ_t, number of tokens) of each trajectory, both [J] float64: add over micro-batches, all-reduce over ranks.

    First half of the no-gradient pass that ratio level `trajectory` needs where a trajectory spans micro-batches.
    """
    unit = batch.trajectory_of_row[batch.row_of_token]
    return (
        segment_sum(log_ratio(batch).double(), unit, n_trajectories),
        segment_sum(batch.token_ones().double(), unit, n_trajectories),
    )


def sequence_log_ratio(sums: Tensor, counts: Tensor) -> Tensor:
    """[J] mean log-ratio from the totals of `sequence_sums`; 0 for a trajectory without tokens."""
    return sums / counts.clamp(min=1.0)


def _units(batch: Batch, level: str) -> tuple[Tensor, int]:
    if level == "turn" and batch.turn_of_token is not None:
        return batch.turn_of_token, batch.advantages.shape[0]
    if level in ("turn", "row"):
        return batch.row_of_token, batch.n_rows
    if level == "trajectory":
        return batch.trajectory_of_row[batch.row_of_token], batch.n_trajectories
    raise ValueError(f"unknown ratio_level {level!r}; one of {', '.join(RATIO_LEVELS)}")


def _segment_mean(values: Tensor, segment: Tensor, size: int) -> Tensor:
    total = segment_sum(torch.ones_like(values), segment, size)
    # A unit without tokens has an empty sum; any divisor but 0 leaves it at 0.
    return segment_sum(values, segment, size) / total.clamp(min=1.0)


# ---- surrogates --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clip:
    """A surrogate and what the other parts must know of it.

    Attributes:
        surrogate: maps (terms, an instance of `config`) to the loss of each token, [N].
        config: its hyperparameters.
        literal: whether it takes the literal ratio of a unit, see `importance_ratio`.
        uses_ratio: whether it reads the ratio at all.
    """

    surrogate: Callable[[Terms, Any], Tensor]
    config: type[ClipConfig] = ClipConfig
    literal: bool = False
    uses_ratio: bool = True


CLIPS: Registry[Clip] = Registry("clip")

Surrogate = TypeVar("Surrogate", bound=Callable[[Terms, Any], Tensor])


def register_clip(
    name: str, config: type[ClipConfig] = ClipConfig, *, literal: bool = False, uses_ratio: bool = True
) -> Callable[[Surrogate], Surrogate]:
    """Decorator that adds a surrogate as the clip `name`; the arguments are those of `Clip`.

    Raises:
        RecipeError: the name is taken, or `config` is not a subclass of `ClipConfig`.
    """
    if not (isinstance(config, type) and issubclass(config, ClipConfig)):
        raise RecipeError(f"clip {name!r}: its hyperparameters {config!r} must be a subclass of ClipConfig")

    def decorate(surrogate: Surrogate) -> Surrogate:
        CLIPS.add(name, Clip(surrogate, config, literal, uses_ratio))
        return surrogate

    return decorate


@register_clip("ppo", PpoConfig)
def ppo(terms: Terms, config: PpoConfig) -> Tensor:
    """[N] max(-A w, -A clip(w, 1-ε_lo, 1+ε_hi)), and for A < 0 at most -A c where a dual clip c is set (GRPO)."""
    loss = gspo(terms, config)
    if config.dual_clip is None:
        return loss
    return torch.where(terms.advantages < 0, torch.minimum(loss, -terms.advantages * config.dual_clip), loss)


@register_clip("gspo_literal", literal=True)
@register_clip("gspo")
def gspo(terms: Terms, config: ClipConfig) -> Tensor:
    """[N] max(-A s, -A clip(s, 1-ε_lo, 1+ε_hi)) on the ratio of a turn, row or trajectory; never a dual clip."""
    bounded = terms.ratio.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    return torch.maximum(-terms.advantages * terms.ratio, -terms.advantages * bounded)


@register_clip("cispo")
def cispo(terms: Terms, config: ClipConfig) -> Tensor:
    """[N] -sg(clip(w, 1-ε_lo, 1+ε_hi)) · A · log π_θ: the weight is bounded, no token loses its gradient."""
    weight = terms.ratio.detach().clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    return -weight * terms.advantages * terms.log_probs


@register_clip("sapo", SapoConfig)
def sapo(terms: Terms, config: SapoConfig) -> Tensor:
    """[N] -(4/τ) sigmoid(τ (w - 1)) · A with τ_pos where A > 0, else τ_neg: a soft gate in place of the clip."""
    positive = torch.full_like(terms.advantages, config.tau_positive)
    tau = torch.where(terms.advantages > 0, positive, torch.full_like(positive, config.tau_negative))
    return -(4.0 / tau) * torch.sigmoid(tau * (terms.ratio - 1.0)) * terms.advantages


@register_clip("reinforce", uses_ratio=False)
def reinforce(terms: Terms, _config: ClipConfig) -> Tensor:
    """[N] -A log π_θ: no ratio, for methods that step once on fresh data (RLOO)."""
    return -terms.advantages * terms.log_probs


# ---- masks and corrections ---------------------------------------------------------------------------------------


@torch.no_grad()
def sequence_mask(batch: Batch, delta: float) -> Tensor:
    """[R] bool, False on rows to drop: A_i < 0 and mean_t (log π_old - log π_θ) > δ.

    The policy has already lowered the probability of such a row; a further step only adds drift. Where the turns of one
    row differ in A, the sign is that of the mean over its tokens.
    """
    drop = batch.old_log_probs.to(batch.dtype) - batch.log_probs.to(batch.dtype)
    mean_drop = _segment_mean(drop, batch.row_of_token, batch.n_rows)
    mean_advantage = _segment_mean(batch.token_advantages(), batch.row_of_token, batch.n_rows)
    return ~((mean_advantage < 0) & (mean_drop > delta))


@torch.no_grad()
def behaviour_correction(batch: Batch, kind: str, low: float, high: float) -> Tensor:
    """[N] weight of each token for a decoupled anchor, by k_t = π_old / μ.

    Args:
        batch: must carry `behaviour_log_probs`.
        kind: `truncate`, min(k_t, high), truncated importance sampling; `icepop`, k_t where it lies within [low, high],
            else 0; `geometric`, 1 on the rows whose geometric mean of k lies within [low, high], else 0: it masks
            rows whose mean ratio is out of range.
        low: lower bound of the ratio.
        high: upper bound of the ratio.
    """
    if batch.behaviour_log_probs is None:
        raise ValueError(f"correction {kind!r} needs behaviour_log_probs, the sampler's log-probabilities")
    drift = batch.old_log_probs.to(batch.dtype) - batch.behaviour_log_probs.to(batch.dtype)
    drift = drift.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if kind == "geometric":
        weight = _segment_mean(drift, batch.row_of_token, batch.n_rows).exp()[batch.row_of_token]
        return ((weight >= low) & (weight <= high)).to(drift)
    weight = drift.exp()
    if kind == "truncate":
        return weight.clamp(max=high)
    if kind == "icepop":
        return torch.where((weight >= low) & (weight <= high), weight, torch.zeros_like(weight))
    raise ValueError(f"unknown correction {kind!r}; one of none, truncate, icepop, geometric")


@torch.no_grad()
def clip_counts(terms: Terms, config: ClipConfig) -> dict[str, Tensor]:
    """Number of tokens outside [1-ε_lo, 1+ε_hi], of all and in the two quarters where the clip acts.

    Returns:
        `outside`; `clip_negative_low` (A < 0 and ratio below: the first sign of a collapse); `clip_positive_high`.
    """
    low, high = terms.ratio < 1.0 - config.clip_low, terms.ratio > 1.0 + config.clip_high
    return {
        "outside": (low | high).sum(dtype=terms.ratio.dtype),
        "clip_negative_low": (low & (terms.advantages < 0)).sum(dtype=terms.ratio.dtype),
        "clip_positive_high": (high & (terms.advantages > 0)).sum(dtype=terms.ratio.dtype),
    }
