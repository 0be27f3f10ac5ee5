"""Log-probabilities and entropies of response tokens, in chunks: the logits of a whole batch never exist at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def _chunk(head: nn.Module, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies [C] of `targets` [C] from `hidden` [C, H], in float32."""
    log_p = torch.log_softmax(head(hidden).float() / temperature, dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return log_p.gather(1, targets[:, None])[:, 0], entropy


def token_log_probs(
    head: nn.Module, hidden: Tensor, targets: Tensor, temperature: float, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies, both [M] in nats, of `targets` [M] under softmax(head(hidden [M, H]) / temperature).

    With more than one chunk, the backward pass computes each chunk's logits again instead of keeping them.
    """
    if hidden.shape[0] <= chunk_tokens:
        return _chunk(head, hidden, targets, temperature)
    log_probs, entropies = [], []
    for start in range(0, hidden.shape[0], chunk_tokens):
        part = slice(start, start + chunk_tokens)
        found = checkpoint(_chunk, head, hidden[part], targets[part], temperature, use_reentrant=False)
        log_probs.append(found[0])
        entropies.append(found[1])
    return torch.cat(log_probs), torch.cat(entropies)
