"""Parameters that the engine does not implement: neutral values change nothing, all others are refused by name. Bodies
that are no request are the client's error.
"""

import json

import pytest
from support.inference.inference_support import openai_error

from arlarena.inference.api.parameters import UNSUPPORTED

CHAT, COMPLETIONS, GENERATE = ROUTES = ("/v1/chat/completions", "/v1/completions", "/inference/v1/generate")
HELLO = [{"role": "user", "content": "hello"}]
# From the references of OpenAI's API and of vLLM, independent of the server's table.
NEUTRAL = {
    "allowed_token_ids": [],
    "bad_words": [],
    "best_of": 1,
    "detokenize": True,
    "documents": [],
    "early_stopping": False,
    "echo": False,
    "frequency_penalty": 0,
    "function_call": "auto",
    "functions": [],
    "ignore_eos": False,
    "include_reasoning": True,
    "length_penalty": 1.0,
    "logit_bias": {"7": 0},
    "metadata": {"job": "7"},
    "min_p": 0.0,
    "min_tokens": 0,
    "modalities": ["text"],
    "parallel_tool_calls": False,
    "presence_penalty": -0.0,
    "priority": 0,
    "prompt_cache_key": "k",
    "prompt_logprobs": None,
    "repetition_penalty": 1,
    "response_format": {"type": "text"},
    "safety_identifier": "s",
    "service_tier": "auto",
    "skip_special_tokens": True,
    "spaces_between_special_tokens": False,
    "stop": [],
    "stop_token_ids": [],
    "store": False,
    "stream": False,
    "stream_options": {"include_usage": False, "include_obfuscation": False, "continuous_usage_stats": False},
    "suffix": "",
    "temperature": 1.0,
    "tool_choice": "none",
    "tools": [],
    "top_k": -1,
    "top_p": 1.0,
    "use_beam_search": False,
    "user": "someone",
    "verbosity": "medium",
}
NOT_NEUTRAL = {
    "audio": {"voice": "alloy", "format": "wav"},
    "best_of": 2,
    "echo": True,
    "frequency_penalty": 0.1,
    "functions": [{"name": "f"}],
    "guided_json": {},
    "length_penalty": 0.5,
    "logit_bias": {"7": 0, "8": -100},
    "min_p": "0",
    "min_tokens": 1,
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": False,
    "reasoning_effort": "low",
    "repetition_penalty": 0,
    "response_format": {"type": "json_object"},
    "service_tier": "priority",
    "store": True,
    "suffix": " end",
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "use_beam_search": True,
    "web_search_options": {},
}


def body(route, parameters):
    """The body of a request to `route` with the given parameters."""
    if route == GENERATE:
        return {"token_ids": [5, 6], "sampling_params": {"max_tokens": 4, "seed": 3, **parameters}}
    prompt = {"messages": HELLO} if route == CHAT else {"prompt": "hello"}
    return {**prompt, "max_tokens": 4, "seed": 3, **parameters}


def outcome(server, route, parameters):
    (choice,) = server.post(route, body(route, parameters))["choices"]
    return choice


@pytest.mark.parametrize("route", ROUTES)
def test_neutral_and_null_values_have_no_effect_alone_and_together(server, route):
    expected = outcome(server, route, {})
    neutral = {name: value for name, value in NEUTRAL.items() if not (route == GENERATE and name.startswith("stream"))}
    for name, value in neutral.items():
        assert outcome(server, route, {name: value}) == expected, name
    assert outcome(server, route, neutral) == expected
    assert outcome(server, route, dict.fromkeys([*neutral, *NOT_NEUTRAL, *UNSUPPORTED])) == expected


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", NOT_NEUTRAL)
def test_other_values_are_refused_by_name_with_an_alternative(server, route, name):
    answer = server.http.post(route, body(route, {name: NOT_NEUTRAL[name]}))
    assert answer.status_code == 400
    error = openai_error(answer)
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert json.dumps(NOT_NEUTRAL[name]) in error["message"]
    assert "leave it out" in error["message"]


def test_best_of_equal_to_n_is_neutral(server):
    assert len(server.post(COMPLETIONS, body(COMPLETIONS, {"n": 2, "best_of": 2}))["choices"]) == 2
    server.refused(COMPLETIONS, body(COMPLETIONS, {"n": 2, "best_of": 1}), 400)


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
def test_max_completion_tokens_takes_precedence_over_max_tokens(server, route):
    for lengths, count in (
        ({"max_completion_tokens": 3}, 3),
        ({"max_completion_tokens": 3, "max_tokens": 9}, 3),
        ({"max_completion_tokens": None, "max_tokens": 2}, 2),
    ):
        request = {**body(route, {"ignore_eos": True, "return_token_ids": True}), "max_tokens": None, **lengths}
        assert len(server.post(route, request)["choices"][0]["token_ids"]) == count
    for wrong in (0, -1, 2.5, "3", True, []):
        assert "max_completion_tokens" in server.refused(route, body(route, {"max_completion_tokens": wrong}), 400)


def test_a_model_is_found_only_by_its_name(server):
    assert server.http.get("/v1/models/tiny").json() == server.http.get("/v1/models").json()["data"][0]
    for name in ("Tiny", "tiny/", "Qwen/Qwen3-0.6B", "Qwen%2FQwen3-0.6B", "a%20b", "%ff"):
        answer = server.http.get(f"/v1/models/{name}")
        assert (answer.status_code, openai_error(answer)["code"]) == (404, "model_not_found"), name


# --- bodies ---

ADMIN = ("/serve_weights",)
DIGITS = b"9" * 5000
BODIES = {
    "latin-1": '{"prompt": "café", "messages": [{"role": "user", "content": "café"}], "version": "é"}'.encode(
        "latin-1"
    ),
    "utf-16": '{"prompt": "x", "version": "x"}'.encode("utf-16"),
    "a lone surrogate": b'{"prompt": "\\ud800", "version": "\\ud800"}',
    "5,000 digits": b'{"prompt": "x", "messages": [], "seed": ' + DIGITS + b', "version": ' + DIGITS + b"}",
    "5,000 digits where anything may be": b'{"messages": [{"role": "user", "content": "x", "n": ' + DIGITS + b"}]}",
    "a float beyond all floats": b'{"prompt": "x", "messages": [], "temperature": 1e999, "version": 1e999}',
    "an integer beyond all floats": b'{"prompt": "x", "messages": [], "temperature": 1' + b"0" * 400 + b"}",
    "deep": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep where anything may be": b'{"messages": [{"role": "user", "content": '
    + b'{"a":' * 50_000
    + b"1"
    + b"}" * 50_003,
    "deep in a template's option": b'{"chat_template_kwargs": ' + b"[" * 900 + b"]" * 900 + b', "messages": 3}',
    "NaN": b'{"prompt": "x", "messages": [], "temperature": NaN, "version": NaN}',
    "two values": b"{} {}",
}


@pytest.mark.parametrize("route", [*ROUTES, "/tokenize", "/detokenize", *ADMIN])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_cannot_be_read_is_400(server, route, name):
    answer = server.http.post(route, data=BODIES[name])
    assert answer.status_code == 400, answer.text
    openai_error(answer)
    assert len(answer.body) < 2000


def test_a_manifest_that_cannot_be_read_is_400(server):
    for data in BODIES.values():
        answer = server.http.put("/weights/v000001-x", data)
        assert answer.status_code == 400, answer.text
        openai_error(answer)
