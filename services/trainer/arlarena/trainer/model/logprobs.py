"""Computes log-probs and entropies of response tokens, in chunks to limit the memory of the logits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# none: no entropies are computed. measured: entropies without gradient. trained: with gradient, for an entropy bonus.
Entropy = Literal["none", "measured", "trained"]

# Maximum number of logits in a chunk if `chunk_tokens` is not given. In float32 these logits take 64 MB.
LOGITS_PER_CHUNK = 1 << 24


def _chunk_log_probs(
    head: nn.Module, hidden: Tensor, targets: Tensor, temperature: float | Tensor, entropy: Entropy
) -> tuple[Tensor, ...]:
    """Return log-probs [C] of `targets` [C] from `hidden` [C, H], and entropies [C] if `entropy` is not "none".

    The dtype is float64 if the logits are float64, else float32.
    """
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
    """Return log-probs [M] and entropies [M], in nats, of `targets` [M] under softmax(head(hidden) / temperature).

    `hidden`: [M, H]. `temperature`: a number, or a tensor [M]. `chunk_tokens`: the number of tokens in a chunk; None:
    the maximum that `LOGITS_PER_CHUNK` allows. If `entropy` is "none", the second result is None.

    The logits of only one chunk are in memory at the same time. If there are several chunks, the backward pass computes
    the logits of each chunk again.
    """
    size = chunk_tokens or max(1, LOGITS_PER_CHUNK // _vocabulary(head))
    if hidden.shape[0] <= size:
        parts = [_chunk_log_probs(head, hidden, targets, temperature, entropy)]
    else:
        states, chosen = torch.split(hidden, size), torch.split(targets, size)
        by_chunk = torch.split(temperature, size) if isinstance(temperature, Tensor) else [temperature] * len(states)
        pieces = zip(states, chosen, by_chunk, strict=True)
        parts = [checkpoint(_chunk_log_probs, head, *piece, entropy, use_reentrant=False) for piece in pieces]
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return columns[0], columns[1] if len(columns) > 1 else None


def _vocabulary(head: nn.Module) -> int:
    weight = head.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]
