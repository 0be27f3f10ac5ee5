"""Sampled tokens follow the distribution of their log-probs."""

import numpy as np
import pytest
import torch
from scipy import stats

from arlarena.inference.embedded.sampler import RowSampling, choice_seed, sample, uniforms

DRAWS = 20_000


def peaked_logits(size=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator) * 1.5


def drawn(logits, **how):
    """Sample DRAWS tokens from one distribution, each with its own seed."""
    draws = [RowSampling(seed=seed, **how) for seed in range(DRAWS)]
    return sample(logits.expand(DRAWS, -1), draws, [0] * DRAWS)


def chi_square_p(tokens, probabilities):
    """Return the p-value of the hypothesis that `tokens` were drawn from `probabilities`.

    Tokens that are expected fewer than 5 times are counted together.
    """
    counts = np.bincount(tokens, minlength=len(probabilities)).astype(float)
    expected = probabilities * len(tokens)
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    kept = wanted > 0
    assert observed[~kept].sum() == 0
    return stats.chisquare(observed[kept], wanted[kept] * observed.sum() / wanted[kept].sum()).pvalue


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_tokens_follow_the_softmax_at_the_temperature(temperature):
    logits = peaked_logits()
    probabilities = torch.softmax(logits.double() / temperature, -1).numpy()
    assert chi_square_p(drawn(logits, temperature=temperature).tokens, probabilities) > 1e-3


def test_the_chi_square_test_detects_a_wrong_temperature():
    logits = peaked_logits()
    wrong = torch.softmax(logits.double() / 1.1, -1).numpy()
    assert chi_square_p(drawn(logits, temperature=1.0).tokens, wrong) < 1e-6


def test_successive_tokens_of_one_seed_are_independent_draws():
    logits = peaked_logits()
    rows = sample(logits.expand(DRAWS, -1), [RowSampling(seed=99)] * DRAWS, list(range(DRAWS)))
    assert chi_square_p(rows.tokens, torch.softmax(logits.double(), -1).numpy()) > 1e-3
    pairs = np.array(rows.tokens[:-1]) * len(logits) + np.array(rows.tokens[1:])
    p = torch.softmax(logits.double(), -1).numpy()
    assert chi_square_p(pairs, np.outer(p, p).ravel()) > 1e-3


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.7), (12, 0.8), (1, 1.0), (0, 1e-9)])
def test_truncation_keeps_the_likeliest_tokens_and_renormalises(top_k, top_p):
    logits = peaked_logits()
    p = torch.softmax(logits.double(), -1).numpy()
    order = np.argsort(-p)
    kept = order[: top_k or len(p)]
    share = np.cumsum(p[kept]) / p[kept].sum()
    kept = kept[: int(np.searchsorted(share, top_p)) + 1] if top_p < 1 else kept
    expected = np.zeros_like(p)
    expected[kept] = p[kept] / p[kept].sum()
    rows = drawn(logits, top_k=top_k, top_p=top_p)
    assert set(rows.tokens) == set(kept.tolist())
    if len(kept) > 1:
        assert chi_square_p(rows.tokens, expected) > 1e-3
    before_truncation = torch.log_softmax(logits, -1)
    np.testing.assert_allclose(rows.logprobs[:50], before_truncation[rows.tokens[:50]], atol=1e-6)


def test_greedy_takes_the_likeliest_and_reports_temperature_one():
    logits = torch.stack([peaked_logits(seed=i) for i in range(50)])
    rows = sample(logits, [RowSampling(temperature=0.0, seed=i) for i in range(50)], [0] * 50)
    assert rows.tokens == logits.argmax(-1).tolist()
    assert rows.ranks == [1] * 50
    np.testing.assert_allclose(rows.logprobs, torch.log_softmax(logits, -1).max(-1).values, atol=1e-6)


def test_rows_of_a_mixed_batch_are_sampled_as_in_single_calls():
    logits = torch.stack([peaked_logits(seed=i) for i in range(60)])
    kinds = [{"temperature": 0.0}, {}, {"temperature": 0.6}, {"top_p": 0.5}, {"top_k": 3, "temperature": 1.3}]
    draws = [RowSampling(seed=i, top_logprobs=2, **kinds[i % len(kinds)]) for i in range(60)]
    together = sample(logits, draws, list(range(60)))
    for i, draw in enumerate(draws):
        alone = sample(logits[i : i + 1], [draw], [i])
        assert alone.tokens[0] == together.tokens[i]
        assert alone.logprobs[0] == pytest.approx(together.logprobs[i], abs=1e-6)
        assert alone.ranks[0] == together.ranks[i]
        assert alone.top[0][0] == together.top[0][i]


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.full((4,), float("-inf"))
    logits[2] = 0.0
    assert set(drawn(logits).tokens) == {2}


def test_uniform_numbers_are_uniform_and_below_one():
    seeds = np.arange(200_000, dtype=np.uint64)
    numbers = uniforms(seeds, np.zeros_like(seeds))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
    assert stats.kstest(uniforms(np.full_like(seeds, 7), seeds), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers, uniforms(seeds, np.ones_like(seeds)))[0, 1]) < 0.01


def test_each_choice_of_a_request_has_its_own_seed_and_the_first_keeps_the_requests():
    assert choice_seed(5, 0) == 5
    assert choice_seed(-1, 0) == 2**64 - 1
    assert len({choice_seed(seed, choice) for seed in range(50) for choice in range(20)}) == 1000
