"""The OpenAI routes: completions, chat, tokens and information."""

import pytest
import torch
from support.inference.inference_support import MAX_LENGTH, VOCABULARY, reference_logprobs, tokenizer


def test_a_completion_of_text_and_of_its_ids_are_the_same(server):
    common = {"max_tokens": 8, "seed": 1, "ignore_eos": True, "return_token_ids": True, "logprobs": 1}
    ids = tokenizer().encode("hello 1")
    by_text = server.post("/v1/completions", {"prompt": "hello 1", **common})
    by_ids = server.post("/v1/completions", {"prompt": ids, **common})
    assert by_text["object"] == "text_completion"
    assert by_text["id"].startswith("cmpl-")
    (first,), (second,) = by_text["choices"], by_ids["choices"]
    assert first["prompt_token_ids"] == ids
    assert first["token_ids"] == second["token_ids"]
    assert first["text"] == tokenizer().decode(first["token_ids"], skip_special_tokens=True)
    logprobs = first["logprobs"]
    assert logprobs["tokens"] == [tokenizer().decode([token]) for token in first["token_ids"]]
    assert {len(values) for values in logprobs.values()} == {8}
    for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        assert top[token] == value
        assert 1 <= len(top) <= 2


def test_max_tokens_of_a_completion_is_16_as_in_openais_api(server):
    choice = server.post("/v1/completions", {"prompt": [5], "ignore_eos": True, "return_token_ids": True})["choices"][0]
    assert len(choice["token_ids"]) == 16


def test_several_prompts_times_several_choices(server):
    body = {"prompt": [[5, 6], [7]], "n": 2, "max_tokens": 3, "seed": 4, "ignore_eos": True, "return_token_ids": True}
    answer = server.post("/v1/completions", body)
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    assert [c["prompt_token_ids"] for c in answer["choices"]] == [[5, 6], [5, 6], [7], [7]]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15}
    texts = server.post("/v1/completions", {"prompt": ["ab", "c"], "max_tokens": 1})["choices"]
    assert len(texts) == 2


def test_prompt_logprobs_are_exact_and_at_temperature_1(server, served_model):
    """A probe of new weights uses prompt log-probs. So they must be exact, must not come from the cache, and must be at
    temperature 1 for any sampling temperature.
    """
    prompt = [(7 + 31 * i) % VOCABULARY for i in range(150)]
    for extra in ({}, {"temperature": 0.3}):
        hits = server.metric("prefix_cache_queries_total"), server.metric("prompt_tokens_computed_total")
        body = {"prompt": prompt, "max_tokens": 1, "prompt_logprobs": 0, **extra}
        entries = server.post("/v1/completions", body)["choices"][0]["prompt_logprobs"]
        assert server.metric("prompt_tokens_computed_total") - hits[1] == len(prompt)
        assert entries[0] is None
        found = torch.tensor([e[str(token)]["logprob"] for e, token in zip(entries[1:], prompt[1:], strict=True)])
        expected = reference_logprobs(served_model, prompt[:1], prompt[1:])
        assert (found - expected).abs().max() < 1e-5
        assert all(len(entry) == 1 for entry in entries[1:])


def test_prompt_logprobs_with_likeliest_tokens_have_their_ranks(server):
    body = {"prompt": [5, 6, 7], "max_tokens": 1, "prompt_logprobs": 3}
    for entry in server.post("/v1/completions", body)["choices"][0]["prompt_logprobs"][1:]:
        ranked = sorted(entry.values(), key=lambda e: e["rank"])
        assert [e["rank"] for e in ranked[:3]] == [1, 2, 3]
        assert [e["logprob"] for e in ranked] == sorted((e["logprob"] for e in ranked), reverse=True)
        assert all(isinstance(e["decoded_token"], str) for e in ranked)


def test_a_chat_uses_the_chat_template(server):
    messages = [
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    body = {"messages": messages, "max_tokens": 6, "seed": 2, "return_token_ids": True, "ignore_eos": True}
    answer = server.post("/v1/chat/completions", {**body, "logprobs": True, "top_logprobs": 2})
    assert answer["object"] == "chat.completion"
    assert answer["prompt_token_ids"] == tokenizer().encode("<user>ab<assistant>c<user>d<assistant>")
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == tokenizer().decode(choice["token_ids"], skip_special_tokens=True)
    content = choice["logprobs"]["content"]
    assert len(content) == 6
    assert b"".join(bytes(entry["bytes"]) for entry in content).decode() == choice["message"]["content"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    same = server.generate(answer["prompt_token_ids"], max_tokens=6, seed=2, ignore_eos=True)
    assert same["token_ids"] == choice["token_ids"]


def test_text_parts_are_joined_and_images_are_refused(server):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 1, "return_token_ids": True}
    assert server.post("/v1/chat/completions", body)["prompt_token_ids"] == tokenizer().encode("<user>ab<assistant>")
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    assert "text only" in server.refused("/v1/chat/completions", {"messages": image}, 400)


def test_a_chat_takes_max_completion_tokens_and_defaults_to_the_context(server):
    messages = [{"role": "user", "content": "x"}]
    body = {"messages": messages, "ignore_eos": True, "return_token_ids": True}
    few = server.post("/v1/chat/completions", {**body, "max_completion_tokens": 3})
    assert few["usage"]["completion_tokens"] == 3
    assert server.post("/v1/chat/completions", body)["usage"]["total_tokens"] == MAX_LENGTH


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions"])
def test_a_stop_string_ends_the_text_and_stays_in_the_ids(server, route):
    prompt = {"messages": [{"role": "user", "content": "q"}]} if "chat" in route else {"prompt": "q"}
    body = {**prompt, "max_tokens": 40, "seed": 8, "ignore_eos": True, "return_token_ids": True}

    def text_of(choice):
        return choice["message"]["content"] if "chat" in route else choice["text"]

    free = server.post(route, body)["choices"][0]
    whole = text_of(free)
    stop = whole[5:7]
    ended = server.post(route, {**body, "stop": [stop, "never appears"]})["choices"][0]
    assert (ended["finish_reason"], ended["stop_reason"]) == ("stop", stop)
    assert text_of(ended) == whole[: whole.index(stop)]
    assert ended["token_ids"] == free["token_ids"][: len(ended["token_ids"])]
    assert tokenizer().decode(ended["token_ids"], skip_special_tokens=True).endswith(stop)
    kept = server.post(route, {**body, "stop": stop, "include_stop_str_in_output": True})["choices"][0]
    assert text_of(kept) == whole[: whole.index(stop) + 2]
    streamed = server.http.events(route, {**body, "stop": stop, "stream": True})
    pieces = [event["choices"][0] for event in streamed]
    joined = "".join((p["delta"].get("content") or "") if "chat" in route else p["text"] for p in pieces)
    assert joined == whole[: whole.index(stop)]
    assert (pieces[-1]["finish_reason"], pieces[-1]["stop_reason"]) == ("stop", stop)


def test_streams_join_to_the_responses(server):
    body = {"prompt": "abc", "max_tokens": 12, "seed": 3, "n": 2, "ignore_eos": True, "logprobs": 0}
    whole = server.post("/v1/completions", body)["choices"]
    events = list(
        server.http.events("/v1/completions", {**body, "stream": True, "stream_options": {"include_usage": True}})
    )
    for choice in whole:
        mine = [e["choices"][0] for e in events[:-1] if e["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in mine) == choice["text"]
        for key in ("tokens", "text_offset"):
            assert [item for piece in mine for item in piece["logprobs"][key]] == choice["logprobs"][key]
        assert [piece["finish_reason"] for piece in mine][-1] == "length"
    assert events[-1]["usage"]["completion_tokens"] == 24

    chat = {"messages": [{"role": "user", "content": "abc"}], "max_tokens": 12, "seed": 3, "ignore_eos": True}
    whole = server.post("/v1/chat/completions", chat)["choices"][0]
    events = [e["choices"][0] for e in server.http.events("/v1/chat/completions", {**chat, "stream": True})]
    assert events[0]["delta"]["role"] == "assistant"
    assert "".join(e["delta"].get("content") or "" for e in events) == whole["message"]["content"]


def test_information(server):
    models = server.http.get("/v1/models").json()
    assert [(m["id"], m["max_model_len"]) for m in models["data"]] == [("tiny", MAX_LENGTH)]
    health = server.http.get("/health")
    assert (health.status_code, health.json()["weight_version"]) == (200, server.version())
    assert server.http.get("/ready").status_code == 200
    assert server.http.get("/version").json()["version"]


def test_tokens_and_back(server):
    asked = server.post("/tokenize", {"prompt": "ab 1", "return_token_strs": True})
    assert asked["tokens"] == tokenizer().encode("ab 1")
    assert asked["token_strs"] == ["a", "b", " ", "1"]
    assert (asked["count"], asked["max_model_len"]) == (4, MAX_LENGTH)
    chat = server.post("/tokenize", {"messages": [{"role": "user", "content": "a"}]})
    assert server.post("/detokenize", {"tokens": chat["tokens"]}) == {"prompt": "<user>a<assistant>"}


def test_metrics_are_prometheus_text(server):
    before = server.metric("generation_tokens_total")
    server.generate([5, 6], max_tokens=7, ignore_eos=True)
    assert server.metric("generation_tokens_total") - before == 7
    text = server.http.get("/metrics").text
    assert f'arlarena_inference_weights_info{{version="{server.version()}"}} 1.0' in text
    assert 'arlarena_inference_requests_total{route="generate",status="200"}' in text
