"""Samples tokens from logits, in one call for all rows of a batch. Each row is one running sequence.

The reported log-prob of a token is log_softmax(logits / T) over the full vocabulary, before top-k and top-p. T is the
temperature. The trainer recomputes the same value. At temperature 0, the most likely token is chosen, and the log-prob
is computed with T = 1.

The random number for a token is uniform. The number is a hash of the seed and of the token's index in the response. The
token is the value of the inverse cumulative distribution at this number. So the random numbers of a request do not
depend on the other rows of the batch.
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

GREEDY_BELOW = 1e-5  # at temperatures below this value, the most likely token is chosen, as in vLLM


@dataclass(frozen=True, slots=True)
class RowSampling:
    """The sampling parameters of one row. `top_k`: 0 turns top-k off. `top_p`: 1 turns top-p off. `top_logprobs`: how
    many of the most likely tokens are reported.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    top_logprobs: int = 0

    @property
    def greedy(self) -> bool:
        """True if the most likely token is chosen without randomness."""
        return self.temperature < GREEDY_BELOW

    @property
    def limits_candidates(self) -> bool:
        """True if top-k or top-p excludes tokens."""
        return not self.greedy and (self.top_p < 1.0 or self.top_k > 0)


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """One sampled token for each row. `logprobs`: natural logarithms. `ranks`: the most likely token has rank 1. `top`:
    the ids and the log-probs of the most likely tokens of each row; None if no row has `top_logprobs` above 0.
    """

    tokens: list[int]
    logprobs: list[float]
    ranks: list[int]
    top: tuple[list[list[int]], list[list[float]]] | None


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Hash 64-bit words with the last step of SplitMix64. Different words have different hashes."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * _MIX_1
        values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


def uniforms(seeds: npt.NDArray[np.uint64], indices: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Returns a pseudo-random number in [0, 1 - 2**-52] for each row. `seeds`: the seed of each row. `indices`: the
    index of each row's new token in the response.
    """
    with np.errstate(over="ignore"):
        words = mix(mix(seeds + _GOLDEN) + (indices + np.uint64(1)) * _GOLDEN)
    return (words >> np.uint64(12)).astype(np.float64) * 2.0**-52


def choice_seed(seed: int, choice: int) -> int:
    """Returns the seed for one of a request's responses, as an unsigned 64-bit integer. `seed`: the seed of the
    request. `choice`: the index of the response. Response 0 has the request's seed.
    """
    word = np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF)
    if choice == 0:
        return int(word)
    return int(mix(np.array([word], dtype=np.uint64) ^ mix(np.array([choice], dtype=np.uint64)))[0])


@torch.inference_mode()
def sample(logits: Tensor, configs: list[RowSampling], indices: list[int]) -> SampledTokens:
    """Sample one token for each of B rows from a vocabulary of V tokens.

    Args:
        logits: float32 [B, V]
        configs: the sampling parameters of each row
        indices: for each row, the index of the new token in the response
    """
    logprobs = torch.log_softmax(_apply_temperature(logits, configs), dim=-1)
    if all(config.greedy for config in configs):
        tokens = logprobs.argmax(dim=-1, keepdim=True)
    else:
        tokens = _invert_cdf(logprobs, configs, indices)
    chosen = logprobs.gather(1, tokens)
    ranks = (logprobs > chosen).sum(dim=1) + 1
    count = max(config.top_logprobs for config in configs)
    top = None
    if count:
        values, ids = logprobs.topk(min(count, logprobs.shape[1]), dim=-1)
        top = (ids.tolist(), values.tolist())
    return SampledTokens(tokens.squeeze(1).tolist(), chosen.squeeze(1).tolist(), ranks.tolist(), top)


def _apply_temperature(logits: Tensor, configs: list[RowSampling]) -> Tensor:
    temperatures = [1.0 if config.greedy else config.temperature for config in configs]
    if all(temperature == 1.0 for temperature in temperatures):
        return logits
    return logits / torch.tensor(temperatures).unsqueeze(1)


def _invert_cdf(logprobs: Tensor, configs: list[RowSampling], indices: list[int]) -> Tensor:
    """Returns one token id for each row, [B, 1]. It is the first token whose cumulative probability exceeds the row's
    uniform number. For a greedy row, it is the most likely token.
    """
    probs = logprobs.double().exp_()  # float64, because a float32 sum would lose tokens of small probability
    truncated = [row for row, config in enumerate(configs) if config.limits_candidates]
    if truncated:
        probs[truncated] = _truncate(probs[truncated], [configs[row] for row in truncated])
    numbers = uniforms(np.array([config.seed for config in configs], np.uint64), np.array(indices, np.uint64))
    cumulative = probs.cumsum_(dim=-1)
    target = torch.from_numpy(numbers).unsqueeze(1) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, target, right=True)
    greedy = [row for row, config in enumerate(configs) if config.greedy]
    if greedy:
        tokens[greedy] = logprobs[greedy].argmax(dim=-1, keepdim=True)
    return tokens


def _truncate(probs: Tensor, configs: list[RowSampling]) -> Tensor:
    """Apply top-k, then top-p, to the probabilities `probs` [rows, V]. Returns the probabilities [rows, V]. Tokens that
    are not kept have the probability 0.

    Top-k keeps the `top_k` most likely tokens. Let S be the total probability of these tokens. Top-p then goes through
    these tokens, starting with the most likely token. It stops as soon as the tokens that it has kept have a total
    probability of at least `top_p` * S.
    """
    size = probs.shape[1]
    ordered, ids = probs.sort(dim=-1, descending=True)
    limits = torch.tensor([config.top_k if config.top_k > 0 else size for config in configs]).unsqueeze(1)
    ordered = ordered.masked_fill_(torch.arange(size) >= limits, 0.0)
    before = ordered.cumsum(dim=-1) - ordered
    top_p = torch.tensor([config.top_p for config in configs], dtype=torch.float64).unsqueeze(1)
    ordered = ordered.masked_fill_(before >= top_p * ordered.sum(dim=-1, keepdim=True), 0.0)
    return torch.zeros_like(probs).scatter_(1, ids, ordered)
