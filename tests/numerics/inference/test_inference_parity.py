"""The engine's results equal those of transformers."""

import random
import time
from dataclasses import replace

import pytest
import torch
from support.inference.inference_support import EOS, MAX_LENGTH, VOCABULARY, model, reference_logprobs, save, vary_norms
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from arlarena.inference.embedded.architecture import UnsupportedModelError, read_architecture
from arlarena.inference.embedded.kv_slots import KeysValues, Slots
from arlarena.inference.embedded.model import QUERIES, Model, Piece
from arlarena.inference.embedded.prefix_cache import BLOCK, PrefixCache
from arlarena.inference.embedded.sampler import RowSampling
from arlarena.inference.embedded.scheduler import Scheduler
from arlarena.inference.embedded.sequence import Sequence
from arlarena.inference.embedded.weights.parameters import load_parameters

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": MAX_LENGTH,
    "initializer_range": 0.15,
}


def llama():
    made = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)).eval()
    vary_norms(made)
    return made


def qwen2():
    made = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).eval()
    vary_norms(made)
    return made


MODELS = {
    "qwen3": model,
    "qwen3_tied": lambda: model(tie_word_embeddings=True),
    "qwen3_other_theta_and_head": lambda: model(
        head_dim=32, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
    ),
    "qwen3_one_layer": lambda: model(num_hidden_layers=1),
    "qwen3_no_groups": lambda: model(num_key_value_heads=4),
    "llama_tied": llama,
    "qwen2_with_bias": qwen2,
}


@pytest.fixture(params=MODELS)
def pair(request, tmp_path):
    """A transformers model and the same weights in the engine."""
    torch.manual_seed(1)
    reference = MODELS[request.param]()
    save(reference, tmp_path)
    arch = read_architecture(tmp_path)
    return reference, Model(arch, load_parameters(tmp_path, arch), MAX_LENGTH)


def reference_logits(reference, ids):
    with torch.inference_mode():
        return reference(ids.unsqueeze(0)).logits[0]


def test_packed_prefill_has_the_reference_logits_for_prompts_of_mixed_lengths(pair):
    reference, engine = pair
    prompts = [torch.randint(0, VOCABULARY, (length,)) for length in (1, 7, 7, 7, 62, 200)]
    logits, _ = engine.prefill(torch.cat(prompts), [len(prompt) for prompt in prompts])
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(logits[row], reference_logits(reference, prompt)[-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("lengths", [(1, 5, 5, 40), (7, 7, 7, 7)])
def test_decoding_has_the_reference_logits_at_every_position(pair, lengths):
    reference, engine = pair
    arch = engine.arch
    slots = Slots(arch, 5, 128)
    slots.kv.keys.fill_(1e6)  # a read of an unwritten position would change the logits
    slots.kv.values.fill_(1e6)
    prompts = [torch.randint(0, VOCABULARY, (length,)) for length in lengths]
    for slot, prompt in enumerate(prompts):
        engine.extend(prompt, Piece(0, len(prompt), slots[slot]))
    for _ in range(6):
        newest = torch.randint(0, VOCABULARY, (4,))
        positions = [len(prompt) for prompt in prompts]
        prompts = [torch.cat((prompt, token.unsqueeze(0))) for prompt, token in zip(prompts, newest, strict=True)]
        logits = engine.decode(newest, positions, slots.kv)
        expected = torch.stack([reference_logits(reference, prompt)[-1] for prompt in prompts])
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cuts", [(200,), (1, 199), (QUERIES, 100, 36)])
def test_a_prompt_computed_in_pieces_has_the_reference_logits(pair, cuts):
    reference, engine = pair
    ids = torch.randint(0, VOCABULARY, (200,))
    kv = KeysValues.zeros(engine.arch, 200)
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(engine.extend(ids[start : start + cut], Piece(start, cut, kv)))
        start += cut
    torch.testing.assert_close(engine.logits(torch.cat(pieces)), reference_logits(reference, ids), atol=1e-5, rtol=0)


def test_prompts_continued_together_have_the_reference_logits(pair):
    reference, engine = pair
    prompts = [torch.randint(0, VOCABULARY, (length,)) for length in (90, 3, 200, 41)]
    starts = [70, 1, 1, 40]
    pieces = []
    for prompt, start in zip(prompts, starts, strict=True):
        kv = KeysValues.zeros(engine.arch, len(prompt))
        engine.extend(prompt[:start], Piece(0, start, kv))
        pieces.append(Piece(start, len(prompt) - start, kv))
    ids = torch.cat([prompt[start:] for prompt, start in zip(prompts, starts, strict=True)])
    logits = engine.continue_(ids, pieces)
    expected = torch.stack([reference_logits(reference, prompt)[-1] for prompt in prompts])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    for prompt, piece in zip(prompts, pieces, strict=True):  # all keys and values are written
        kv = KeysValues.zeros(engine.arch, len(prompt))
        engine.extend(prompt, Piece(0, len(prompt), kv))
        torch.testing.assert_close(piece.kv.keys, kv.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(piece.kv.values, kv.values, atol=1e-5, rtol=1e-5)


def scheduler(engine, *, cache_bytes, prefill_tokens=256, slots=16):
    return Scheduler(
        engine, Slots(engine.arch, slots, MAX_LENGTH), PrefixCache(engine.arch, cache_bytes), prefill_tokens, "a:0:x"
    )


def sequence(prompt, seed, max_tokens=12, temperature=1.0, score=None):
    draw = RowSampling(temperature=temperature, seed=seed)
    far = time.monotonic() + 600
    return Sequence(prompt, draw, max_tokens, frozenset(), frozenset({EOS}), far, score=score)


def run(engine, sequences, **options):
    s = scheduler(engine, **options)
    s.add(sequences)
    while s.step():
        assert s.counters.steps < 10_000
    assert all(q.finish_reason in ("stop", "length") for q in sequences)
    return s


def mixed_prompts(rng, count):
    """Prompts of 1 to 300 tokens: some repeated, some with a common prefix, some longer than `prefill_tokens`."""
    base = [rng.randrange(VOCABULARY) for _ in range(300)]
    made = []
    for i in range(count):
        kind = i % 4
        if kind == 0:
            made.append([rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 60))])
        elif kind == 1 and made:
            made.append(list(rng.choice(made)))
        else:
            made.append(base[: rng.randint(70, 300)] + [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 9))])
    return made


def test_log_probs_of_multi_turn_episodes_equal_a_full_forward_pass(tmp_path):
    """Six episodes share their first prompt. A later prompt is the previous prompt, the response and an observation."""
    reference = model(5)
    save(reference, tmp_path)
    arch = read_architecture(tmp_path)
    engine = Model(arch, load_parameters(tmp_path, arch), MAX_LENGTH)
    rng = random.Random(6)
    s = scheduler(engine, cache_bytes=64 << 20, prefill_tokens=128)
    prompts, played = [[rng.randrange(VOCABULARY) for _ in range(70)]] * 6, []
    for turn in range(5):
        turns = [sequence(prompt, 10 * turn + sibling) for sibling, prompt in enumerate(prompts)]
        s.add(turns)
        while s.step():
            assert s.counters.steps < 10_000
        played += turns
        prompts = [[*q.prompt, *q.tokens, *(rng.randrange(VOCABULARY) for _ in range(9))] for q in turns]
    differences = [
        (torch.tensor(q.logprobs) - reference_logprobs(reference, q.prompt, q.tokens)).abs().max() for q in played
    ]
    assert max(differences) < 1e-4
    # In 4 later turns of 6 episodes, the last token of the response and 9 tokens of the observation are new. The
    # episodes diverge within a cache block, so each episode computes at most one block again.
    observed = 4 * 6 * (1 + 9)
    assert s.counters.computed_tokens < 70 + observed + 6 * BLOCK


@pytest.mark.parametrize("cache_bytes", [0, 64 << 20], ids=["no_cache", "cache"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_log_probs_equal_a_full_forward_pass(tmp_path, cache_bytes, temperature):
    reference = model(3)
    save(reference, tmp_path)
    arch = read_architecture(tmp_path)
    engine = Model(arch, load_parameters(tmp_path, arch), MAX_LENGTH)
    rng = random.Random(4)
    sequences = [sequence(p, seed, temperature=temperature) for seed, p in enumerate(mixed_prompts(rng, 60))]
    s = run(engine, sequences, cache_bytes=cache_bytes)
    if cache_bytes:
        assert s.counters.computed_tokens < 0.8 * s.counters.prompt_tokens
    worst = max(
        (torch.tensor(q.logprobs) - reference_logprobs(reference, q.prompt, q.tokens, temperature)).abs().max().item()
        for q in sequences
    )
    assert worst < 1e-4


def test_a_seed_gives_the_same_tokens_in_any_batch(tmp_path):
    save(model(5), tmp_path)
    arch = read_architecture(tmp_path)
    engine = Model(arch, load_parameters(tmp_path, arch), MAX_LENGTH)
    prompts = mixed_prompts(random.Random(6), 24)

    def sample(order, **options):
        sequences = {seed: sequence(prompts[seed], seed) for seed in order}
        run(engine, list(sequences.values()), **options)
        return {seed: q.tokens for seed, q in sequences.items()}

    together = sample(range(24), cache_bytes=64 << 20)
    assert sample(reversed(range(24)), cache_bytes=0) == together
    assert sample(range(24), cache_bytes=1 << 20, slots=3, prefill_tokens=64) == together
    for seed in range(0, 24, 5):
        assert sample([seed], cache_bytes=0)[seed] == together[seed]
    other = [sequence(prompt, 1000 + i) for i, prompt in enumerate(prompts)]
    run(engine, other, cache_bytes=0)
    assert [q.tokens for q in other] != [together[i] for i in range(24)]


@pytest.mark.parametrize("length", [1, 2, 63, 300])
def test_scores_equal_a_full_forward_pass_and_do_not_use_the_cache(tmp_path, length):
    reference = model(7)
    save(reference, tmp_path)
    arch = read_architecture(tmp_path)
    engine = Model(arch, load_parameters(tmp_path, arch), MAX_LENGTH)
    prompt = [(7 * i + 3) % VOCABULARY for i in range(length)]
    q = sequence(prompt, 1, max_tokens=4, score=3)
    s = run(engine, [q], cache_bytes=64 << 20)
    assert len(s.cache) == 0
    expected = reference_logprobs(reference, prompt[:1], prompt[1:]) if length > 1 else torch.empty(0)
    torch.testing.assert_close(torch.tensor(q.scored.logprobs), expected, atol=1e-5, rtol=0)
    assert len(q.scored.top[0]) == length - 1
    torch.testing.assert_close(
        torch.tensor(q.logprobs), reference_logprobs(reference, prompt, q.tokens), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"use_sliding_window": True}, "sliding"),
        ({"quantization_config": {}}, "quantised"),
        ({"num_attention_heads": 3}, "3 query heads"),
    ],
)
def test_a_model_that_would_be_computed_wrongly_is_refused(tmp_path, change, word):
    import json

    save(model(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UnsupportedModelError, match=word):
        read_architecture(tmp_path)


def test_non_finite_logits_end_their_requests_and_leave_later_requests_correct(tmp_path):
    reference = model(8)
    save(reference, tmp_path)
    arch = read_architecture(tmp_path)
    good = load_parameters(tmp_path, arch)
    engine = Model(arch, good, MAX_LENGTH)
    s = scheduler(engine, cache_bytes=0)
    running, late = sequence([5, 6, 7], 1, max_tokens=50), sequence([5, 6, 7], 2)
    running.eos_ids = frozenset()
    s.add([running])
    for _ in range(3):
        s.step()
    engine.parameters = replace(good, embedding=good.embedding * float("inf"))
    s.add([late])
    while s.step():
        pass
    assert running.finish_reason == late.finish_reason == "nonfinite"
    engine.parameters = good
    after = [sequence([5, 6, 7, 8 + i], i) for i in range(4)]
    s.add(after)
    while s.step():
        pass
    for q in after:
        expected = reference_logprobs(reference, q.prompt, q.tokens)
        torch.testing.assert_close(torch.tensor(q.logprobs), expected, atol=1e-5, rtol=0)
