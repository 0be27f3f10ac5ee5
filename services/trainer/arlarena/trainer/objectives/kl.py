"""KL divergences between two policies, and entropy. All values are per token and in nats.

π_θ is the policy that is trained, π_ref the reference policy, and π_old the policy in the denominator of the importance
ratio. k3 = e^d - d - 1 with d = log π_ref - log π_θ is Schulman's estimator of the KL ("Approximating KL divergence",
2020). GRPO uses k3 for the KL to the reference (arXiv 2402.03300, equation 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Bounds of d and of k3. Without these bounds, one token with an extreme d would dominate the gradient.
MAX_LOG_DIFFERENCE = 20.0
MAX_K3 = 10.0


def k3(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Return k3 [N] = e^d - d - 1 with d = log π_ref - log π_θ. d is clamped to ±20. k3 is at least 0 and at most 10.

    The mean over samples of π_θ estimates KL(π_θ ‖ π_ref). The result is differentiable in `log_probs` [N] (log π_θ),
    but not in `ref_log_probs` [N] (log π_ref).
    """
    difference = (ref_log_probs.detach() - log_probs).clamp(-MAX_LOG_DIFFERENCE, MAX_LOG_DIFFERENCE)
    return (difference.exp() - difference - 1.0).clamp(-MAX_K3, MAX_K3)


def off_policy_kl(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """Return log π_old - log π_θ [N], detached. The mean over samples of π_old estimates KL(π_old ‖ π_θ)."""
    return (old_log_probs - log_probs).detach()


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy [...] of softmax(logits) in nats, differentiable.

    `logits`: [..., V] for a vocabulary of V tokens, already divided by the temperature. A logit of -inf (a forbidden
    token) adds 0 to the entropy.
    """
    log_p = torch.log_softmax(logits.double() if logits.dtype == torch.float64 else logits.float(), dim=-1)
    p_log_p = torch.where(log_p.isneginf(), torch.zeros_like(log_p), log_p.exp() * log_p.clamp(min=-1e30))
    return -p_log_p.sum(dim=-1)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The difference between the trainer's and the sampler's log-probs of the same tokens.

    Attributes:
        mean_k3: mean of e^d - d - 1. d is the trainer's log-prob minus the sampler's log-prob, clamped to ±20.
        max_abs: the largest |d|. For this maximum, d is not clamped.
        tokens: number of tokens that were compared.
    """

    mean_k3: float
    max_abs: float
    tokens: int


@torch.no_grad()
def mismatch(trainer_log_probs: Tensor, sampler_log_probs: Tensor, mask: Tensor) -> Mismatch:
    """Compare the log-probs [N] of trainer and sampler on the tokens where `mask` [N] is not 0.

    If `mask` is 0 everywhere, all fields of the result are 0.
    """
    compared = mask.bool()
    trainer, sampler = trainer_log_probs[compared].double(), sampler_log_probs[compared].double()
    if not trainer.numel():
        return Mismatch(0.0, 0.0, 0)
    difference = trainer - sampler
    clamped = difference.clamp(-MAX_LOG_DIFFERENCE, MAX_LOG_DIFFERENCE)
    mean_k3 = (clamped.exp() - clamped - 1.0).mean()
    return Mismatch(float(mean_k3), float(difference.abs().max()), trainer.numel())
