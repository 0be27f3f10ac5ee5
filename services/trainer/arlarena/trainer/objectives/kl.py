"""Divergences between named policies, and entropy. All per token, all in nats.

k3 = e^d - d - 1 is Schulman's estimator ("Approximating KL divergence", 2020), as GRPO uses it for the KL to the
reference (arXiv 2402.03300, equation 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Bounds of the reference term: d before exp, and the value after, so that one absurd token cannot own the gradient.
MAX_LOG_DIFFERENCE = 20.0
MAX_K3 = 10.0


def k3(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """[N] e^d - d - 1 with d = log π_ref - log π_θ clamped to ±20, and the value to ±10; differentiable in π_θ.

    An estimate of KL(π_θ ‖ π_ref) from samples of π_θ that is never negative.
    """
    difference = (ref_log_probs.detach() - log_probs).clamp(-MAX_LOG_DIFFERENCE, MAX_LOG_DIFFERENCE)
    return (difference.exp() - difference - 1.0).clamp(-MAX_K3, MAX_K3)


def off_policy_kl(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """[N] log π_old - log π_θ, detached; its mean estimates KL(π_old ‖ π_θ) from samples of π_old."""
    return (old_log_probs - log_probs).detach()


def entropy(logits: Tensor) -> Tensor:
    """[...] entropy of softmax(logits [..., V]) in nats, differentiable; logits already divided by the temperature.

    A logit of -inf (a forbidden token) contributes 0.
    """
    log_p = torch.log_softmax(logits.double() if logits.dtype == torch.float64 else logits.float(), dim=-1)
    p_log_p = torch.where(log_p.isneginf(), torch.zeros_like(log_p), log_p.exp() * log_p.clamp(min=-1e30))
    return -p_log_p.sum(dim=-1)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """How far two computations of one policy's log-probabilities lie apart. Alarm above 0.015 (mean k3)."""

    mean_k3: float
    max_abs: float
    tokens: int


@torch.no_grad()
def mismatch(trainer_log_probs: Tensor, sampler_log_probs: Tensor, mask: Tensor) -> Mismatch:
    """Compare trainer and sampler on the same tokens, all [N]; zeros where no token is sampled."""
    live = mask.bool()
    trainer, sampler = trainer_log_probs[live].double(), sampler_log_probs[live].double()
    if not trainer.numel():
        return Mismatch(0.0, 0.0, 0)
    difference = trainer - sampler
    clamped = difference.clamp(-MAX_LOG_DIFFERENCE, MAX_LOG_DIFFERENCE)
    mean_k3 = (clamped.exp() - clamped - 1.0).mean()
    return Mismatch(float(mean_k3), float(difference.abs().max()), trainer.numel())
