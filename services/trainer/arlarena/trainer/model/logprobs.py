"""Log-probabilities and entropies of response tokens, in chunks: the logits of a whole batch never exist at once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# none: not computed; measured: a figure without gradient; trained: with gradient, for a bonus.
Entropy = Literal["none", "measured", "trained"]

# Logits of a chunk, unless the number of its tokens is given: 64 MB in float32.
LOGITS_AT_ONCE = 1 << 24


def _chunk(
    head: nn.Module, hidden: Tensor, targets: Tensor, temperature: float | Tensor, entropy: Entropy
) -> tuple[Tensor, ...]:
    """Log-probs [C] of `targets` [C] from `hidden` [C, H], and their entropies if asked for, in float32 at least."""
    logits = head(hidden)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if isinstance(temperature, Tensor):
        logits = logits / temperature.to(logits.dtype)[:, None]
    elif temperature != 1.0:
        logits = logits / temperature
    log_p = torch.log_softmax(logits, dim=-1)
    chosen = log_p.gather(1, targets[:, None])[:, 0]
    if entropy == "none":
        return (chosen,)
    with torch.set_grad_enabled(torch.is_grad_enabled() and entropy == "trained"):
        return chosen, -(log_p.exp() * log_p).sum(dim=-1)


def token_log_probs(
    head: nn.Module,
    hidden: Tensor,
    targets: Tensor,
    temperature: float | Tensor,
    chunk_tokens: int | None = None,
    entropy: Entropy = "trained",
) -> tuple[Tensor, Tensor | None]:
    """Log-probs and entropies, both [M] in nats, of `targets` [M] under softmax(head(hidden [M, H]) / temperature).

    `temperature` is one number, or one for each target, [M].

    With more than one chunk of `chunk_tokens` (default: as many as `LOGITS_AT_ONCE` allows), the backward pass computes
    each chunk's logits again instead of keeping them.
    """
    size = chunk_tokens or max(1, LOGITS_AT_ONCE // _vocabulary(head))
    if hidden.shape[0] <= size:
        parts = [_chunk(head, hidden, targets, temperature, entropy)]
    else:
        states, chosen = torch.split(hidden, size), torch.split(targets, size)
        at = torch.split(temperature, size) if isinstance(temperature, Tensor) else [temperature] * len(states)
        pieces = zip(states, chosen, at, strict=True)
        parts = [checkpoint(_chunk, head, *piece, entropy, use_reentrant=False) for piece in pieces]
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return columns[0], columns[1] if len(columns) > 1 else None


def _vocabulary(head: nn.Module) -> int:
    weight = head.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]
