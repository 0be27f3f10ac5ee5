"""The common contract of both engines: tokens and log-probs, ends of responses, the likeliest tokens, seeds."""

import concurrent.futures

import pytest
from support.inference.engines_support import (
    CHAT,
    COMPLETIONS,
    GENERATE,
    LENGTH,
    LONGEST,
    PROMPT,
    assert_logprobs,
    by_route,
    choice,
    choices,
    likeliest,
    next_logprobs,
    prompt_ids,
    request,
    usage,
)
from support.inference.inference_support import EOS, tokenizer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def server(engine_server):
    return engine_server


# --- tokens, log-probs, ends ---


@by_route
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_equal_transformers_at_the_requests_temperature(server, first, route, temperature):
    for seed in range(6):
        one = choice(server, route, max_tokens=20, seed=seed, temperature=temperature, logprobs=0)
        assert_logprobs(first.made, route, one, temperature=temperature)


@by_route
def test_greedy_takes_transformers_likeliest_tokens(server, first, route):
    one = choice(server, route, max_tokens=12, temperature=0, logprobs=0, ignore_eos=True)
    ids = list(PROMPT)
    for _ in range(12):
        ids.append(int(next_logprobs(first.made, ids).argmax()))
    assert one["token_ids"] == ids[len(PROMPT) :]
    assert_logprobs(first.made, route, one)


@by_route
def test_the_prompts_ids_are_returned_on_request(server, route):
    asked = request(route, max_tokens=4, ignore_eos=True)
    answer = server.post(route, asked)
    assert prompt_ids(route, answer) == PROMPT
    assert usage(answer) == [6, 4, 10]
    assert prompt_ids(route, server.post(route, {**asked, "return_token_ids": False})) is None


def test_generate_returns_the_requests_id_and_the_version_of_every_token(server, first):
    asked = {**request(GENERATE, max_tokens=4, ignore_eos=True), "request_id": "abc", "model": "tiny"}
    answer = server.post(GENERATE, asked)
    assert (answer["request_id"], answer["model"]) == ("generate-tokens-abc", "tiny")
    (one,) = answer["choices"]
    assert one["weight_versions"] == [{"version": first.label, "start": 0, "end": 4}]
    assert one["logprobs"] is None


@by_route
def test_an_end_of_sequence_token_ends_the_response_and_is_part_of_it(server, first, route):
    for seed in range(100):
        one = choice(server, route, max_tokens=60, seed=seed, temperature=1.0, logprobs=0)
        if one["finish_reason"] == "stop":
            break
    assert one["stop_reason"] is None
    assert one["token_ids"].index(EOS) == len(one["token_ids"]) - 1
    assert_logprobs(first.made, route, one)


@by_route
def test_the_end_of_sequence_can_be_ignored(server, route):
    one = choice(server, route, max_tokens=300, seed=1, temperature=1.0, ignore_eos=True)
    assert EOS in one["token_ids"]
    assert (len(one["token_ids"]), one["finish_reason"], one["stop_reason"]) == (300, "length", None)


@by_route
def test_a_stop_id_ends_the_response_and_is_named(server, route):
    common = {"max_tokens": 8, "seed": 2, "temperature": 1.0, "ignore_eos": True}
    ids = choice(server, route, **common)["token_ids"]
    one = choice(server, route, **common, stop_token_ids=[ids[3]])
    assert one["token_ids"] == ids[: ids.index(ids[3]) + 1]
    assert (one["finish_reason"], one["stop_reason"]) == ("stop", ids[3])


@pytest.mark.parametrize("limit", [{}, {"max_tokens": 100}], ids=["without a limit", "beyond the context"])
def test_generate_ends_at_the_context_limit_with_reason_length(server, limit):
    one = server.generate([5] * (LENGTH - 7), ignore_eos=True, **limit)
    assert (len(one["token_ids"]), one["finish_reason"]) == (7, "length")


def test_max_tokens_defaults_to_16_for_completions_and_to_the_context_for_chats(server):
    assert usage(server.post(COMPLETIONS, request(COMPLETIONS, ignore_eos=True))) == [6, 16, 22]
    assert usage(server.post(CHAT, request(CHAT, ignore_eos=True))) == [6, LONGEST, LENGTH]
    assert usage(server.post(CHAT, request(CHAT, ignore_eos=True, max_completion_tokens=3))) == [6, 3, 9]


# --- the likeliest tokens ---


def test_generate_reports_the_sampled_token_first_and_then_the_likeliest_by_rank(server, first):
    one = choice(server, GENERATE, max_tokens=10, seed=3, logprobs=3, ignore_eos=True)
    ids = list(PROMPT)
    for entry, token in zip(one["logprobs"]["content"], one["token_ids"], strict=True):
        expected = next_logprobs(first.made, ids)
        sampled, *others = entry["top_logprobs"]
        assert sampled == {key: entry[key] for key in ("token_id", "logprob", "rank")}
        assert entry["token_id"] == token
        assert len(entry["top_logprobs"]) == 3
        assert [other["rank"] for other in others] == [r for r in (1, 2, 3) if r != entry["rank"]][:2]
        for found in entry["top_logprobs"]:
            assert found["logprob"] == pytest.approx(expected[found["token_id"]].item(), abs=1e-4)
            assert found["rank"] == 1 + int((expected > expected[found["token_id"]]).sum())
        ids.append(token)


def test_a_completion_reports_the_sampled_token_and_the_likeliest(server, first):
    one = choice(server, COMPLETIONS, max_tokens=10, seed=3, temperature=1.0, logprobs=2, ignore_eos=True)
    found, ids = one["logprobs"], list(PROMPT)
    assert found["tokens"] == [tokenizer().decode([token]) for token in one["token_ids"]]
    for token, value, top in zip(one["token_ids"], found["token_logprobs"], found["top_logprobs"], strict=True):
        expected = likeliest(first.made, ids, 2) | {token: value}
        assert top == pytest.approx({tokenizer().decode([t]): v for t, v in expected.items()}, abs=1e-4)
        ids.append(token)


# --- seeds and choices ---


def test_a_seed_gives_the_same_tokens_alone_and_under_load_and_other_seeds_differ(server):
    def ask(seed):
        return server.generate([3 + seed % 5] * (5 + seed % 3), max_tokens=15, seed=seed, ignore_eos=True)["token_ids"]

    alone = [ask(seed) for seed in range(24)]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        crowd = list(pool.map(ask, range(24)))
    assert crowd == alone
    assert len({tuple(ids) for ids in alone}) == 24


@by_route
def test_without_a_seed_responses_differ(server, route):
    found = [choice(server, route, max_tokens=20, ignore_eos=True) for _ in range(4)]
    assert len({tuple(one["token_ids"]) for one in found}) == 4


@by_route
def test_choices_differ_and_repeat_and_the_first_equals_that_of_n_1(server, route):
    common = {"max_tokens": 10, "seed": 3, "ignore_eos": True}
    found = choices(server, route, n=4, **common)
    assert [one["index"] for one in found] == [0, 1, 2, 3]
    ids = [one["token_ids"] for one in found]
    assert len({tuple(i) for i in ids}) == 4
    assert [one["token_ids"] for one in choices(server, route, n=4, **common)] == ids
    assert choice(server, route, **common)["token_ids"] == ids[0]


def test_several_prompts_times_several_choices(server):
    asked = {"prompt": [[5, 6], [7]], "n": 2, "max_tokens": 3, "ignore_eos": True, "return_token_ids": True}
    answer = server.post(COMPLETIONS, asked)
    assert [one["index"] for one in answer["choices"]] == [0, 1, 2, 3]
    assert [one["prompt_token_ids"] for one in answer["choices"]] == [[5, 6], [5, 6], [7], [7]]
    assert usage(answer) == [3, 12, 15]
