"""Samples tokens from logits, in one call for the batch.

The reported log-prob is log_softmax(logits / T) over the full vocabulary, before top-k and top-p: the value that a
trainer recomputes. At temperature 0 the likeliest token is taken and T counts as 1.

A token is drawn by inverting the cumulative distribution at a uniform number: a hash of (seed, index of the token in
its response). There is no state, so a request's draws do not depend on the rest of the batch or on the time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # constants of SplitMix64 (Steele, Lea, Flood 2014)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

GREEDY_BELOW = 1e-5  # temperatures below this are greedy, as in vLLM


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row is sampled. `top_k=0` and `top_p=1` are off; `top_logprobs`: number of likeliest tokens to report."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    top_logprobs: int = 0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def truncated(self) -> bool:
        """Whether tokens are excluded before the draw."""
        return not self.greedy and (self.top_p < 1.0 or self.top_k > 0)


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """One token a row: id, log-prob in nats, rank (1 is the likeliest), and (ids, log-probs) of the likeliest."""

    tokens: list[int]
    logprobs: list[float]
    ranks: list[int]
    top: tuple[list[list[int]], list[list[float]]] | None


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection of 64-bit words whose outputs look independent."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * _MIX_1
        values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


def uniforms(seeds: npt.NDArray[np.uint64], indices: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """A number in [0, 1 - 2**-52] for each (seed, index of the token in its response)."""
    with np.errstate(over="ignore"):
        words = mix(mix(seeds + _GOLDEN) + (indices + np.uint64(1)) * _GOLDEN)
    return (words >> np.uint64(12)).astype(np.float64) * 2.0**-52


def choice_seed(seed: int, choice: int) -> int:
    """The seed of the n-th response to a request, unsigned 64 bits. The first response has the request's seed."""
    word = np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF)
    if choice == 0:
        return int(word)
    return int(mix(np.array([word], dtype=np.uint64) ^ mix(np.array([choice], dtype=np.uint64)))[0])


@torch.inference_mode()
def sample(logits: Tensor, draws: list[Draw], indices: list[int]) -> SampledTokens:
    """Draw one token for each row.

    Args:
        logits: float32 [B, V]
        draws: how to sample each row
        indices: of the token to draw, within its response
    """
    logprobs = torch.log_softmax(_tempered(logits, draws), dim=-1)
    if all(draw.greedy for draw in draws):
        tokens = logprobs.argmax(dim=-1, keepdim=True)
    else:
        tokens = _invert_cdf(logprobs, draws, indices)
    chosen = logprobs.gather(1, tokens)
    ranks = (logprobs > chosen).sum(dim=1) + 1
    count = max(draw.top_logprobs for draw in draws)
    top = None
    if count:
        values, ids = logprobs.topk(min(count, logprobs.shape[1]), dim=-1)
        top = (ids.tolist(), values.tolist())
    return SampledTokens(tokens.squeeze(1).tolist(), chosen.squeeze(1).tolist(), ranks.tolist(), top)


def _tempered(logits: Tensor, draws: list[Draw]) -> Tensor:
    temperatures = [1.0 if draw.greedy else draw.temperature for draw in draws]
    if all(temperature == 1.0 for temperature in temperatures):
        return logits
    return logits / torch.tensor(temperatures).unsqueeze(1)


def _invert_cdf(logprobs: Tensor, draws: list[Draw], indices: list[int]) -> Tensor:
    """Ids [B, 1]: the first token whose cumulative probability exceeds the row's uniform number."""
    probs = logprobs.double().exp_()  # float64: a float32 sum would round away the last tokens
    truncated = [row for row, draw in enumerate(draws) if draw.truncated]
    if truncated:
        probs[truncated] = _truncate(probs[truncated], [draws[row] for row in truncated])
    numbers = uniforms(np.array([draw.seed for draw in draws], np.uint64), np.array(indices, np.uint64))
    cumulative = probs.cumsum_(dim=-1)
    target = torch.from_numpy(numbers).unsqueeze(1) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, target, right=True)
    greedy = [row for row, draw in enumerate(draws) if draw.greedy]
    if greedy:
        tokens[greedy] = logprobs[greedy].argmax(dim=-1, keepdim=True)
    return tokens


def _truncate(probs: Tensor, draws: list[Draw]) -> Tensor:
    """Top-k, then top-p: of the k likeliest, the smallest set with a share p of their probability. Others become 0."""
    size = probs.shape[1]
    ordered, ids = probs.sort(dim=-1, descending=True)
    limits = torch.tensor([draw.top_k if draw.top_k > 0 else size for draw in draws]).unsqueeze(1)
    ordered = ordered.masked_fill_(torch.arange(size) >= limits, 0.0)
    before = ordered.cumsum(dim=-1) - ordered
    shares = torch.tensor([draw.top_p for draw in draws], dtype=torch.float64).unsqueeze(1)
    ordered = ordered.masked_fill_(before >= shares * ordered.sum(dim=-1, keepdim=True), 0.0)
    return torch.zeros_like(probs).scatter_(1, ids, ordered)
