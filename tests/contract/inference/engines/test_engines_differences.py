"""Differences between the engines that clients can observe; each test's name states the difference."""

import pytest
import torch
from support.inference.engines_support import (
    CHAT,
    COMPLETIONS,
    GENERATE,
    PROMPT,
    assert_logprobs,
    by_text_route,
    choice,
    choices,
    likeliest,
    logprobs,
    request,
)
from support.inference.inference_support import tokenizer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def server(engine_server):
    return engine_server


@by_text_route
def test_sampling_defaults_are_neutral_and_ignore_generation_config(server, first, route):
    one = choice(server, route, max_tokens=20, seed=1, logprobs=0)
    assert_logprobs(first.made, route, one, temperature=1.0)


def test_generate_ignores_generation_config(server, first):
    assert_logprobs(first.made, GENERATE, choice(server, GENERATE, max_tokens=20, seed=1, logprobs=0))


def test_log_probs_are_before_truncation_on_embedded_and_after_it_on_vllm(server, engine, first):
    one = choice(server, GENERATE, max_tokens=10, seed=1, top_k=3, logprobs=0, ignore_eos=True)
    ids = list(PROMPT)
    for token, value in zip(one["token_ids"], logprobs(GENERATE, one), strict=True):
        top = likeliest(first.made, ids, 3)
        left = 0.0 if engine == "embedded" else torch.tensor(list(top.values())).logsumexp(0).item()
        assert value == pytest.approx(top[token] - left, abs=1e-4)
        ids.append(token)


def test_a_chats_likeliest_tokens_are_sorted_on_embedded_and_follow_the_sampled_token_on_vllm(server, engine, first):
    one = choice(server, CHAT, max_tokens=10, seed=3, temperature=1.0, logprobs=2, ignore_eos=True)
    ids = list(PROMPT)
    for token, entry in zip(one["token_ids"], one["logprobs"]["content"], strict=True):
        assert entry["token"] == bytes(entry["bytes"]).decode() == tokenizer().decode([token])
        expected = list(likeliest(first.made, ids, 2).items())
        if engine == "vllm":
            expected = [(token, entry["logprob"]), *(pair for pair in expected if pair[0] != token)][:2]
        assert [top["token"] for top in entry["top_logprobs"]] == [tokenizer().decode([t]) for t, _ in expected]
        assert [top["logprob"] for top in entry["top_logprobs"]] == pytest.approx([v for _, v in expected], abs=1e-4)
        ids.append(token)


def test_an_unknown_role_is_refused_by_embedded_and_left_to_the_template_by_vllm(server, engine):
    asked = {"messages": [{"role": "wizard", "content": "x"}], "max_tokens": 1}
    if engine == "embedded":
        assert "messages[0].role" in server.refused(CHAT, asked, 400)
    else:
        server.post(CHAT, asked)


def test_an_unknown_field_is_refused_by_embedded_and_ignored_by_vllm(server, engine):
    asked = {**request(COMPLETIONS, max_tokens=1), "temprature": 0.5}
    if engine == "embedded":
        assert "temprature" in server.refused(COMPLETIONS, asked, 400)
    else:
        server.post(COMPLETIONS, asked)


def test_a_penalty_is_refused_by_embedded_and_applied_by_vllm(server, engine, first):
    asked = request(GENERATE, max_tokens=30, temperature=0, presence_penalty=2.0, ignore_eos=True)
    if engine == "embedded":
        assert "presence_penalty" in server.refused(GENERATE, asked, 400)
    else:
        plain = choice(server, GENERATE, max_tokens=30, temperature=0, ignore_eos=True)["token_ids"]
        assert len(set(server.post(GENERATE, asked)["choices"][0]["token_ids"])) > len(set(plain))


def test_several_greedy_choices_are_equal_on_embedded_and_refused_by_vllm(server, engine):
    asked = request(GENERATE, n=2, temperature=0, max_tokens=4, ignore_eos=True)
    if engine == "embedded":
        one, other = server.post(GENERATE, asked)["choices"]
        assert one["token_ids"] == other["token_ids"]
    else:
        assert "greedy" in server.refused(GENERATE, asked, 400)


def test_the_second_choice_of_a_seed_equals_the_next_seeds_first_only_on_vllm(server, engine):
    _, other = choices(server, GENERATE, n=2, seed=3, max_tokens=10, ignore_eos=True)
    following = choice(server, GENERATE, seed=4, max_tokens=10, ignore_eos=True)
    assert (other["token_ids"] == following["token_ids"]) == (engine == "vllm")
