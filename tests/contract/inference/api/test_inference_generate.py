"""`/inference/v1/generate`, compatible with vLLM: ids in; ids, log-probs and versions out."""

import concurrent.futures

import pytest
import torch
from support.inference.inference_support import EOS, MAX_LENGTH, VOCABULARY, reference_logprobs

PROMPT = [3, 10, 20, 30, 4]


def test_the_response_has_vllms_fields(server):
    body = {
        "token_ids": PROMPT,
        "request_id": "abc",
        "model": "tiny",
        "return_token_ids": True,
        "sampling_params": {"max_tokens": 4, "seed": 1, "logprobs": 2, "ignore_eos": True},
    }
    answer = server.post("/inference/v1/generate", body)
    assert answer["request_id"] == "generate-tokens-abc"
    assert (answer["model"], answer["output_mode"], answer["prompt_token_ids"]) == ("tiny", "tokens", PROMPT)
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    (choice,) = answer["choices"]
    assert (choice["index"], choice["finish_reason"], choice["stop_reason"]) == (0, "length", None)
    assert choice["weight_versions"] == [{"version": server.version(), "start": 0, "end": 4}]
    content = choice["logprobs"]["content"]
    assert [entry["token_id"] for entry in content] == choice["token_ids"]
    for entry in content:
        top = entry["top_logprobs"]
        assert top[0] == {key: entry[key] for key in ("token_id", "logprob", "rank")}
        assert len(top) == 2 or entry["rank"] == 1


def test_logprobs_0_gives_only_the_sampled_token_and_absent_gives_none(server):
    asked = server.generate(PROMPT, max_tokens=2, logprobs=0)
    assert all(len(entry["top_logprobs"]) == 1 for entry in asked["logprobs"]["content"])
    assert server.generate(PROMPT, max_tokens=2)["logprobs"] is None


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_at_the_temperature_and_before_truncation(server, served_model, temperature):
    for seed in range(20):
        choice = server.generate(
            PROMPT, max_tokens=12, seed=seed, logprobs=0, temperature=temperature, top_p=0.9 if seed % 2 else 1.0
        )
        found = torch.tensor([entry["logprob"] for entry in choice["logprobs"]["content"]])
        expected = reference_logprobs(served_model, PROMPT, choice["token_ids"], temperature)
        assert (found - expected).abs().max() < 1e-4


def test_an_end_of_sequence_token_is_in_the_response_with_its_log_prob(server, served_model):
    for seed in range(300):
        choice = server.generate(PROMPT, max_tokens=60, seed=seed, logprobs=0)
        if choice["finish_reason"] == "stop":
            break
    ids = choice["token_ids"]
    assert choice["stop_reason"] is None
    assert ids[-1] == EOS
    assert EOS not in ids[:-1]
    content = choice["logprobs"]["content"]
    assert len(content) == len(ids)
    expected = reference_logprobs(served_model, PROMPT, ids)[-1].item()
    assert content[-1]["logprob"] == pytest.approx(expected, abs=1e-4)


def test_ignore_eos_samples_past_the_end_of_sequence(server):
    choice = server.generate(PROMPT, max_tokens=300, seed=1, ignore_eos=True)
    assert EOS in choice["token_ids"]
    assert len(choice["token_ids"]) == 300


def test_a_stop_id_ends_the_response_and_is_named(server):
    ids = server.generate(PROMPT, max_tokens=8, seed=2, ignore_eos=True)["token_ids"]
    choice = server.generate(PROMPT, max_tokens=8, seed=2, ignore_eos=True, stop_token_ids=[ids[3]])
    at = ids.index(ids[3])
    assert choice["token_ids"] == ids[: at + 1]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", ids[3])


def test_a_response_ends_at_the_context_limit_with_reason_length(server):
    prompt = [5] * (MAX_LENGTH - 7)
    for limit in ({}, {"max_tokens": 100}):
        choice = server.generate(prompt, ignore_eos=True, **limit)
        assert (len(choice["token_ids"]), choice["finish_reason"]) == (7, "length")


def test_a_seed_gives_the_same_tokens_alone_and_under_load(server):
    def ask(seed):
        prompt = [3 + seed % 5] * (5 + seed % 3)
        return server.generate(prompt, max_tokens=15, seed=seed, ignore_eos=True)["token_ids"]

    alone = [ask(seed) for seed in range(40)]
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        crowd = list(pool.map(ask, range(40)))
    assert crowd == alone
    assert len({tuple(ids) for ids in alone}) == 40


def test_without_a_seed_responses_differ(server):
    answers = {tuple(server.generate(PROMPT, max_tokens=20, ignore_eos=True)["token_ids"]) for _ in range(5)}
    assert len(answers) == 5


def test_several_choices_differ_and_the_first_equals_that_of_n_1(server):
    body = {"token_ids": PROMPT, "sampling_params": {"n": 4, "max_tokens": 10, "seed": 3, "ignore_eos": True}}
    answer = server.post("/inference/v1/generate", body)
    ids = [choice["token_ids"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert len({tuple(i) for i in ids}) == 4
    assert ids[0] == server.generate(PROMPT, max_tokens=10, seed=3, ignore_eos=True)["token_ids"]
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 40, "total_tokens": 45}


def test_greedy_takes_the_likeliest_tokens(server, served_model):
    choice = server.generate(PROMPT, max_tokens=6, temperature=0, ignore_eos=True)
    ids = list(PROMPT)
    with torch.inference_mode():
        for _ in range(6):
            ids.append(int(served_model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert choice["token_ids"] == ids[len(PROMPT) :]


def test_a_stream_joins_to_the_response(server):
    params = {"max_tokens": 9, "seed": 5, "logprobs": 1, "ignore_eos": True, "n": 2}
    body = {"token_ids": PROMPT, "sampling_params": params, "return_token_ids": True}
    whole = server.post("/inference/v1/generate", body)["choices"]
    streamed = {0: {"ids": [], "content": []}, 1: {"ids": [], "content": []}}
    events = list(
        server.http.events(
            "/inference/v1/generate", {**body, "stream": True, "stream_options": {"include_usage": True}}
        )
    )
    assert [event["prompt_token_ids"] for event in events].count(PROMPT) == 2
    assert events[-1]["usage"]["completion_tokens"] == 18
    for event in events[:-1]:
        (choice,) = event["choices"]
        streamed[choice["index"]]["ids"] += choice["token_ids"]
        streamed[choice["index"]]["content"] += choice["logprobs"]["content"]
        last = choice["finish_reason"] is not None
        assert (choice["weight_versions"] is not None) == last
    for choice in whole:
        assert streamed[choice["index"]]["ids"] == choice["token_ids"]
        logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        assert [e["logprob"] for e in streamed[choice["index"]]["content"]] == pytest.approx(logprobs, abs=1e-5)


def test_reused_prompts_give_the_same_log_probs(server, served_model):
    prompt = [(i * 7) % VOCABULARY for i in range(90)]
    computed, hits = server.metric("prompt_tokens_computed_total"), server.metric("prefix_cache_hits_total")
    first = server.generate(prompt, max_tokens=10, seed=9, logprobs=0, ignore_eos=True)
    again = server.generate(prompt, max_tokens=10, seed=9, logprobs=0, ignore_eos=True)
    longer = server.generate([*prompt, 5, 6], max_tokens=10, seed=9, logprobs=0, ignore_eos=True)
    assert server.metric("prefix_cache_hits_total") - hits == 2
    assert server.metric("prompt_tokens_computed_total") - computed == 90 + 2
    assert again["token_ids"] == first["token_ids"]
    for choice, ids in ((again, prompt), (longer, [*prompt, 5, 6])):
        found = torch.tensor([entry["logprob"] for entry in choice["logprobs"]["content"]])
        assert (found - reference_logprobs(served_model, ids, choice["token_ids"])).abs().max() < 1e-4
    server.post("/reset_prefix_cache")
    server.generate(prompt, max_tokens=1)
    assert server.metric("prefix_cache_hits_total") - hits == 2


def test_more_requests_than_slots_all_finish(server):
    def ask(seed):
        return len(server.generate([7, 8, 9, seed % 40], max_tokens=30, seed=seed, ignore_eos=True)["token_ids"])

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, range(64))) == [30] * 64
    assert server.metric("requests_running") == server.metric("requests_waiting") == 0
