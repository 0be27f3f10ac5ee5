"""The common contract of both engines: text, stop strings, prompt log-probs, streams."""

import pytest
import torch
from support.inference.engines_support import (
    CHAT,
    COMPLETIONS,
    GENERATE,
    LENGTH,
    PROMPT,
    USER,
    ask_of_prompt,
    by_route,
    by_text_route,
    choice,
    logprobs,
    next_logprobs,
    prompt_ids,
    prompt_logprobs,
    request,
    text,
    usage,
)
from support.inference.inference_support import reference_logprobs, tokenizer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def server(engine_server):
    return engine_server


# --- text ---


@by_text_route
def test_the_text_ends_before_a_stop_string_which_is_named(server, route):
    common = {"max_tokens": 40, "seed": 8, "ignore_eos": True}
    free = choice(server, route, **common)
    whole = text(route, free)
    assert whole == tokenizer().decode(free["token_ids"], skip_special_tokens=True)
    stop = whole[5:7]
    before = whole[: whole.index(stop)]
    ended = choice(server, route, **common, stop=["never appears", stop])
    assert (text(route, ended), ended["finish_reason"], ended["stop_reason"]) == (before, "stop", stop)
    assert ended["token_ids"] == free["token_ids"][: len(ended["token_ids"])]
    kept = choice(server, route, **common, stop=stop, include_stop_str_in_output=True)
    assert (text(route, kept), kept["stop_reason"]) == (before + stop, stop)


@by_text_route
@pytest.mark.parametrize("include", [False, True])
def test_a_stream_contains_a_stop_string_only_on_request(server, route, include):
    common = {"max_tokens": 40, "seed": 8, "ignore_eos": True}
    whole = text(route, choice(server, route, **common))
    stop = whole[5:8]
    asked = request(route, **common, stop=stop, include_stop_str_in_output=include, stream=True)
    pieces = [one for event in server.http.events(route, asked) for one in event["choices"]]
    assert "".join(text(route, piece) for piece in pieces) == whole[: whole.index(stop)] + stop * include
    assert (pieces[-1]["finish_reason"], pieces[-1]["stop_reason"]) == ("stop", stop)


def test_generate_ends_with_the_token_that_completes_a_stop_string(server):
    common = {"max_tokens": 40, "seed": 8, "ignore_eos": True}
    ids = choice(server, GENERATE, **common)["token_ids"]
    whole = tokenizer().decode(ids, skip_special_tokens=True)
    ended = choice(server, GENERATE, **common, stop=whole[5:7])
    assert (ended["finish_reason"], ended["stop_reason"]) == ("stop", whole[5:7])
    assert ended["token_ids"] == ids[: len(ended["token_ids"])]
    shown = tokenizer().decode(ended["token_ids"], skip_special_tokens=True)
    assert shown == whole[: whole.index(whole[5:7]) + 2]


def test_a_completion_of_text_and_of_its_ids_are_the_same(server):
    common = {"max_tokens": 8, "seed": 1, "return_token_ids": True}
    by_text, by_ids = (
        server.post(COMPLETIONS, {"prompt": prompt, **common})["choices"][0]
        for prompt in ("hello 1", tokenizer().encode("hello 1"))
    )
    assert by_text["prompt_token_ids"] == by_ids["prompt_token_ids"] == tokenizer().encode("hello 1")
    assert (by_text["token_ids"], by_text["text"]) == (by_ids["token_ids"], by_ids["text"])


def test_a_chat_equals_generate_on_the_rendered_template(server):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "ab"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    asked = {"messages": messages, "max_tokens": 6, "seed": 2, "temperature": 1.0, "return_token_ids": True}
    answer = server.post(CHAT, asked)
    assert answer["object"] == "chat.completion"
    assert answer["prompt_token_ids"] == tokenizer().encode("<user>ab<assistant>c<user>d<assistant>")
    (one,) = answer["choices"]
    assert one["message"]["role"] == "assistant"
    assert one["message"]["content"] == tokenizer().decode(one["token_ids"], skip_special_tokens=True)
    same = server.generate(answer["prompt_token_ids"], max_tokens=6, seed=2)
    assert same["token_ids"] == one["token_ids"]


def test_tokens_and_back(server):
    asked = server.post("/tokenize", {"prompt": "ab 1", "return_token_strs": True})
    assert asked["tokens"] == tokenizer().encode("ab 1")
    assert (asked["count"], asked["max_model_len"], asked["token_strs"]) == (4, LENGTH, ["a", "b", " ", "1"])
    assert server.post("/tokenize", {"messages": USER})["tokens"] == PROMPT
    assert server.post("/detokenize", {"tokens": PROMPT}) == {"prompt": "<user>ab 1<assistant>"}


def test_information(server, first):
    models = server.http.get("/v1/models").json()["data"]
    assert [(one["id"], one["max_model_len"]) for one in models] == [("tiny", LENGTH)]
    assert server.http.get("/weight_info").json() == {"weight_version": first.label}
    assert server.http.get("/health").json()["weight_version"] == first.label
    assert server.http.get("/ready").status_code == 200
    assert server.http.get("/version").json()["version"]
    assert "requests_total" in server.http.get("/metrics").text


# --- the prompt's log-probs ---


@by_route
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_prompt_log_probs_equal_transformers_at_temperature_1(server, first, route, temperature):
    answer = server.post(route, ask_of_prompt(route, prompt_logprobs=0, temperature=temperature))
    ids, (none, *entries) = prompt_ids(route, answer), prompt_logprobs(route, answer)
    assert none is None
    assert all(len(entry) == 1 for entry in entries)
    found = torch.tensor([entry[str(token)]["logprob"] for entry, token in zip(entries, ids[1:], strict=True)])
    torch.testing.assert_close(found, reference_logprobs(first.made, ids[:1], ids[1:]), atol=1e-4, rtol=0)


@by_route
def test_the_likeliest_tokens_of_a_prompt_have_ranks(server, first, route):
    answer = server.post(route, ask_of_prompt(route, prompt_logprobs=3))
    ids, (_, *entries) = prompt_ids(route, answer), prompt_logprobs(route, answer)
    for at, entry in enumerate(entries[:20], start=1):
        expected = next_logprobs(first.made, ids[:at])
        assert {int(token) for token in entry} == {*expected.topk(3).indices.tolist(), ids[at]}
        for token, found in entry.items():
            assert found["rank"] == 1 + int((expected > expected[int(token)]).sum())
            assert found["logprob"] == pytest.approx(expected[int(token)].item(), abs=1e-4)
            assert found["decoded_token"] == tokenizer().decode([int(token)])


# --- streams ---


@by_route
def test_the_pieces_of_a_stream_join_to_the_response(server, route):
    asked = request(route, n=2, max_tokens=60, seed=5, logprobs=1, ignore_eos=True)
    whole = server.post(route, asked)["choices"]
    events = list(server.http.events(route, {**asked, "stream": True}))
    assert prompt_ids(route, events[0]) == PROMPT
    assert not any(event.get("usage") for event in events)
    for one in whole:
        pieces = [piece for event in events for piece in event["choices"] if piece["index"] == one["index"]]
        assert [token for piece in pieces for token in piece.get("token_ids") or ()] == one["token_ids"]
        values = [value for piece in pieces for value in logprobs(route, piece)]
        assert values == pytest.approx(logprobs(route, one), abs=1e-4)
        assert [piece["finish_reason"] for piece in pieces if piece["finish_reason"]] == ["length"]
        assert len(pieces) > 2
        if route != GENERATE:
            assert "".join(text(route, piece) for piece in pieces) == text(route, one)


@by_route
def test_the_last_event_of_a_stream_is_the_usage_on_request(server, route):
    asked = request(route, n=2, max_tokens=12, ignore_eos=True)
    *events, last = server.http.events(route, {**asked, "stream": True, "stream_options": {"include_usage": True}})
    assert last["choices"] == []
    assert usage(last) == [6, 24, 30]
    assert not any(event.get("usage") for event in events)


def test_a_streamed_chat_begins_with_its_role(server):
    begin = next(server.http.events(CHAT, request(CHAT, max_tokens=4, ignore_eos=True, stream=True)))
    assert begin["object"] == "chat.completion.chunk"
    assert begin["choices"][0]["delta"]["role"] == "assistant"


def test_a_stream_of_generate_names_its_versions_in_the_last_piece(server, first):
    asked = request(GENERATE, max_tokens=9, ignore_eos=True, stream=True)
    *pieces, last = [event["choices"][0] for event in server.http.events(GENERATE, asked)]
    assert last["weight_versions"] == [{"version": first.label, "start": 0, "end": 9}]
    assert not any(piece["weight_versions"] for piece in pieces)
