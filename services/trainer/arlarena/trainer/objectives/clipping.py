"""Importance ratios, surrogate losses and the sequence mask: dimension two (clipping) of ARLArena (arXiv 2602.21534).

PPO's clip: arXiv 1707.06347; GSPO: arXiv 2507.18071; CISPO: arXiv 2506.13585; SAPO: arXiv 2511.20347.

A surrogate maps the ratio, the log-prob and the advantage A of a token to a loss. Training minimises the loss. π_θ is
the policy that is trained, and π_old the policy in the denominator of the ratio. Δ_t = log π_θ - log π_old is the
log-ratio of token t. sg(x) is x without gradient.

The recipe's `ratio_level` defines the ratio. At level `token` the ratio is w_t = exp(Δ_t). At the levels `turn`, `row`
and `trajectory`, all tokens of a unit i (a turn, row or trajectory) have the ratio s_i = exp(mean Δ_t of the unit). The
token form of s_i (GSPO) is sg(s_i) · exp(log π_θ - sg(log π_θ)). In the token form, the gradient of each token is
multiplied by the advantage of the same token. The literal form (an ablation) is the differentiable s_i. In the literal
form, the gradient of every token of a unit is multiplied by the *mean* advantage of the unit.

The bounds of a clip are fields of its `ClipConfig`. A recipe can set other bounds, as `_GSPO` in `recipes.py` does.
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

# Δ is clamped to ±MAX_LOG_RATIO before exp, so that sums of ratios are finite in float32.
MAX_LOG_RATIO = 20.0

# All tokens of a unit share one ratio. A row is one training sequence: one turn, or consecutive turns of an episode
# with a growing context. The code released with ARLArena calls the level `row` "sequence".
RATIO_LEVELS = ("token", "turn", "row", "trajectory")


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """Hyperparameters that every clip has. A clip with more hyperparameters declares a subclass.

    The metric `outside` counts the tokens with a ratio outside [1 - ε_lo, 1 + ε_hi], even if the clip does not use
    these bounds.
    """

    clip_low: float = hyperparameter(0.2, "ε_lo: the lower bound of a ratio is 1 - ε_lo", above=0, at_most=1)
    clip_high: float = hyperparameter(0.2, "ε_hi: the upper bound of a ratio is 1 + ε_hi", above=0)


@dataclass(frozen=True, slots=True)
class PpoConfig(ClipConfig):
    """Hyperparameters of `ppo`."""

    dual_clip: float | None = hyperparameter(
        None, "c: if A < 0, the loss of a token is at most -A c; none: no bound", at_least=1
    )


@dataclass(frozen=True, slots=True)
class SapoConfig(ClipConfig):
    """Hyperparameters of `sapo`."""

    tau_positive: float = hyperparameter(1.0, "temperature τ of the sigmoid if A > 0", above=0)
    tau_negative: float = hyperparameter(1.05, "temperature τ of the sigmoid if A ≤ 0", above=0)


@dataclass(frozen=True, slots=True)
class Terms:
    """The input of a surrogate. All tensors are [N]. `log_probs` and `ratio` have a gradient, `advantages` do not."""

    log_probs: Tensor
    ratio: Tensor
    advantages: Tensor


# ---- ratios ------------------------------------------------------------------------------------------------------


def log_ratio(batch: Batch) -> Tensor:
    """Return Δ_t [N] = log π_θ - log π_old, clamped to ±20."""
    delta = batch.log_probs.to(batch.dtype) - batch.old_log_probs.to(batch.dtype)
    return delta.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def importance_ratio(batch: Batch, level: str, *, literal: bool = False) -> Tensor:
    """Return the importance ratio of each token, shape [N].

    At level `token`, the result is exp(log-ratio of the token). At the other levels, the result is exp(mean log-ratio
    of the token's unit). The module docstring defines the two forms of a ratio that several tokens share.

    Args:
        batch: the N tokens.
        level: the unit in which all tokens share one ratio, one of `RATIO_LEVELS`.
        literal: True: the literal form. False: the token form.

    Raises:
        ValueError: the level is unknown, or `literal` is used at level `trajectory` with a precomputed
            `sequence_log_ratio`. The literal form needs a gradient, and `sequence_log_ratio` has no gradient.
    """
    delta = log_ratio(batch)
    if level == "token":
        return delta.exp()
    unit, size = _units(batch, level)
    if literal:
        if level == "trajectory" and batch.sequence_log_ratio is not None:
            raise ValueError(
                "sequence_log_ratio has no gradient, and the literal form of the ratio needs a gradient; leave "
                "out sequence_log_ratio, and put all rows of a trajectory into one micro-batch"
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
    """Return the sum of Δ_t [J] and the number of tokens [J] of each trajectory, in float64.

    Add up the sums and the numbers over micro-batches and ranks. Then pass the totals to `sequence_log_ratio`. The
    totals are needed at ratio level `trajectory` if a trajectory has rows in several micro-batches.
    """
    unit = batch.trajectory_of_row[batch.row_of_token]
    return (
        segment_sum(log_ratio(batch).double(), unit, n_trajectories),
        segment_sum(batch.token_ones().double(), unit, n_trajectories),
    )


def sequence_log_ratio(sums: Tensor, counts: Tensor) -> Tensor:
    """Return the mean log-ratio [J] of each trajectory, from the totals of `sequence_sums`.

    The result is 0 for a trajectory without tokens.
    """
    return sums / counts.clamp(min=1.0)


def _units(batch: Batch, level: str) -> tuple[Tensor, int]:
    if level == "turn" and batch.turn_of_token is not None:
        return batch.turn_of_token, batch.advantages.shape[0]
    if level in ("turn", "row"):
        return batch.row_of_token, batch.n_rows
    if level == "trajectory":
        return batch.trajectory_of_row[batch.row_of_token], batch.n_trajectories
    raise ValueError(f"unknown ratio_level {level!r}; choose one of {', '.join(RATIO_LEVELS)}")


def _segment_mean(values: Tensor, segment: Tensor, size: int) -> Tensor:
    total = segment_sum(torch.ones_like(values), segment, size)
    # A unit without tokens has the sum 0. The clamp prevents 0 / 0.
    return segment_sum(values, segment, size) / total.clamp(min=1.0)


# ---- surrogates --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clip:
    """A surrogate and its properties.

    Attributes:
        surrogate: maps (terms, an instance of `config`) to the loss of each token, [N].
        config: the class of the surrogate's hyperparameters.
        literal: whether the surrogate gets the literal form of the ratio (see the module docstring).
        uses_ratio: whether the surrogate reads `Terms.ratio`.
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
    """Return a decorator that registers a surrogate as the clip `name`. The other arguments are fields of `Clip`.

    Raises:
        RecipeError: `config` is not a subclass of `ClipConfig`. The decorator raises RecipeError if the name is taken
            or is not a Python identifier.
    """
    if not (isinstance(config, type) and issubclass(config, ClipConfig)):
        raise RecipeError(f"clip {name!r}: its hyperparameters {config!r} must be a subclass of ClipConfig")

    def decorate(surrogate: Surrogate) -> Surrogate:
        CLIPS.add(name, Clip(surrogate, config, literal, uses_ratio))
        return surrogate

    return decorate


@register_clip("ppo", PpoConfig)
def ppo(terms: Terms, config: PpoConfig) -> Tensor:
    """Return max(-A w, -A clip(w, 1-ε_lo, 1+ε_hi)) [N] with ratio w.

    If A < 0, the loss is at most -A c with c = `dual_clip`.
    """
    loss = gspo(terms, config)
    if config.dual_clip is None:
        return loss
    return torch.where(terms.advantages < 0, torch.minimum(loss, -terms.advantages * config.dual_clip), loss)


@register_clip("gspo_literal", literal=True)
@register_clip("gspo")
def gspo(terms: Terms, config: ClipConfig) -> Tensor:
    """Return max(-A s, -A clip(s, 1-ε_lo, 1+ε_hi)) [N] with the ratio s of a turn, row or trajectory."""
    bounded = terms.ratio.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    return torch.maximum(-terms.advantages * terms.ratio, -terms.advantages * bounded)


@register_clip("cispo")
def cispo(terms: Terms, config: ClipConfig) -> Tensor:
    """Return -sg(clip(w, 1-ε_lo, 1+ε_hi)) · A · log π_θ [N] with ratio w. A clipped token keeps a gradient."""
    weight = terms.ratio.detach().clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    return -weight * terms.advantages * terms.log_probs


@register_clip("sapo", SapoConfig)
def sapo(terms: Terms, config: SapoConfig) -> Tensor:
    """Return -(4/τ) sigmoid(τ (w - 1)) · A [N] with ratio w. τ is `tau_positive` if A > 0, else `tau_negative`."""
    positive = torch.full_like(terms.advantages, config.tau_positive)
    tau = torch.where(terms.advantages > 0, positive, torch.full_like(positive, config.tau_negative))
    return -(4.0 / tau) * torch.sigmoid(tau * (terms.ratio - 1.0)) * terms.advantages


@register_clip("reinforce", uses_ratio=False)
def reinforce(terms: Terms, _config: ClipConfig) -> Tensor:
    """Return -A log π_θ [N]. Methods that take only one update on each fresh batch need no ratio (RLOO)."""
    return -terms.advantages * terms.log_probs


# ---- masks and corrections ---------------------------------------------------------------------------------------


@torch.no_grad()
def sequence_mask(batch: Batch, delta: float) -> Tensor:
    """Return bool [R]: False for rows with A < 0 and log π_old - log π_θ above δ = `delta`.

    A and the difference are means over the tokens of the row. Rows with False are left out of the policy loss, because
    the policy has already lowered the probability of these rows. A further update would only move the policy farther
    from π_old.
    """
    drop = batch.old_log_probs.to(batch.dtype) - batch.log_probs.to(batch.dtype)
    mean_drop = _segment_mean(drop, batch.row_of_token, batch.n_rows)
    mean_advantage = _segment_mean(batch.token_advantages(), batch.row_of_token, batch.n_rows)
    return ~((mean_advantage < 0) & (mean_drop > delta))


@torch.no_grad()
def behaviour_correction(batch: Batch, kind: str, low: float, high: float) -> Tensor:
    """Return the weight [N] of each token, computed from k_t = π_old / μ. μ is the sampler's policy.

    Policy anchor `decoupled` uses this weight to correct for the difference between sampler and trainer.

    Args:
        batch: must have `behaviour_log_probs` (log μ).
        kind: `truncate` (truncated importance sampling): min(k_t, high). `icepop`: k_t if k_t is within [low, high],
            else 0. `geometric`: 1 for all tokens of a row if the row's geometric mean of k_t is within [low, high],
            else 0.
        low: lower bound of k_t.
        high: upper bound of k_t.

    Raises:
        ValueError: the kind is unknown, or the batch has no `behaviour_log_probs`.
    """
    if batch.behaviour_log_probs is None:
        raise ValueError(f"the batch has no behaviour_log_probs; correction {kind!r} needs the sampler's log-probs")
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
    raise ValueError(f"unknown correction {kind!r}; choose one of none, truncate, icepop, geometric")


@torch.no_grad()
def clip_counts(terms: Terms, config: ClipConfig) -> dict[str, Tensor]:
    """Count the tokens with a ratio outside [1-ε_lo, 1+ε_hi].

    Returns:
        `outside`: tokens with a ratio outside the interval. `clip_negative_low`: tokens with A < 0 and a ratio below
        the interval; if this count increases, training may collapse soon. `clip_positive_high`: tokens with A > 0 and a
        ratio above the interval.
    """
    low, high = terms.ratio < 1.0 - config.clip_low, terms.ratio > 1.0 + config.clip_high
    return {
        "outside": (low | high).sum(dtype=terms.ratio.dtype),
        "clip_negative_low": (low & (terms.advantages < 0)).sum(dtype=terms.ratio.dtype),
        "clip_positive_high": (high & (terms.advantages > 0)).sum(dtype=terms.ratio.dtype),
    }
