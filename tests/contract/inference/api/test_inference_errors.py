"""Bad input: the status, the field at fault, and a message that says what to change. The server goes on."""

import random

import pytest
from support.inference.inference_support import MAX_LENGTH, VOCABULARY, openai_error

GENERATE, COMPLETIONS, CHAT = "/inference/v1/generate", "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "x"}]


@pytest.fixture(autouse=True)
def still_serving(server):
    """Whatever a test sends, the next request is answered."""
    yield
    assert len(server.generate([5], max_tokens=2, ignore_eos=True)["token_ids"]) == 2


PARAMETERS = [
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": 0.0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"n": 0}, "n must be"),
    ({"n": 1000}, "n must be"),
    ({"logprobs": -1}, "logprobs"),
    ({"logprobs": 21}, "logprobs"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"seed": 2**64}, "seed"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop_token_ids": [VOCABULARY]}, "stop_token_ids"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"min_tokens": 3}, "min_tokens"),
    ({"temprature": 1.0}, "temprature"),
    ({"temperature": "hot"}, "temperature"),
    ({"max_tokens": 1.5}, "max_tokens"),
]


@pytest.mark.parametrize(("params", "word"), PARAMETERS)
def test_bad_sampling_parameters_of_generate(server, params, word):
    assert word in server.refused(GENERATE, {"token_ids": [5], "sampling_params": params}, 400)


@pytest.mark.parametrize(("params", "word"), PARAMETERS)
def test_bad_sampling_parameters_of_completions(server, params, word):
    assert word in server.refused(COMPLETIONS, {"prompt": [5], **params}, 400)


@pytest.mark.parametrize(
    "params", [{"repetition_penalty": 1.2}, {"min_p": 0.1}, {"logit_bias": {"5": 1}}, {"bad_words": ["x"]}]
)
def test_what_the_engine_does_not_do_is_refused_and_not_ignored(server, params):
    message = server.refused(GENERATE, {"token_ids": [5], "sampling_params": params}, 400)
    assert next(iter(params)) in message
    assert "not supported" in message


def test_neutral_values_of_what_is_not_implemented_are_accepted(server):
    neutral = {"repetition_penalty": 1.0, "min_p": 0.0, "presence_penalty": 0.0, "min_tokens": 0, "top_k": -1}
    assert server.generate([5], max_tokens=1, **neutral)


@pytest.mark.parametrize(
    ("ids", "word"),
    [
        ([], "empty"),
        ([VOCABULARY], f"id {VOCABULARY} is not in the vocabulary"),
        ([5, -1], "id -1"),
        ([2**40], "vocabulary"),
        ([5] * MAX_LENGTH, "maximum context length"),
        ([5] * 5000, "maximum context length"),
        ([True], "token_ids"),
        ([5.5], "token_ids"),
        ("text", "token_ids"),
        (None, "token_ids"),
    ],
)
def test_bad_token_ids(server, ids, word):
    assert word in server.refused(GENERATE, {"token_ids": ids, "sampling_params": {}}, 400)


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ([], "prompt"),
        ("", "empty"),
        ([[]], "empty"),
        ([["a"]], "prompt"),
        ([1, "a"], "prompt"),
        ([[5], [VOCABULARY]], "vocabulary"),
        ({"a": 1}, "prompt"),
        (5, "prompt"),
    ],
)
def test_bad_prompts(server, prompt, word):
    assert word in server.refused(COMPLETIONS, {"prompt": prompt}, 400)


def test_openai_routes_refuse_more_tokens_than_the_context_holds(server):
    message = server.refused(COMPLETIONS, {"prompt": [5] * 10, "max_tokens": MAX_LENGTH}, 400)
    assert f"maximum context length is {MAX_LENGTH}" in message
    assert "max_tokens" in message


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": 5}]}, "content"),
        ({"messages": "hi"}, "messages"),
        ({}, "messages"),
        ({"messages": USER, "top_logprobs": 2}, "logprobs"),
        ({"messages": USER, "logprobs": True, "top_logprobs": 99}, "logprobs"),
        ({"messages": USER, "stream": True, "prompt_logprobs": 0}, "prompt_logprobs"),
        ({"messages": USER, "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_bad_chats(server, body, word):
    assert word in server.refused(CHAT, body, 400)


def test_an_unknown_model_is_404_as_in_vllm(server):
    for route, body in (
        (GENERATE, {"token_ids": [5], "sampling_params": {}}),
        (COMPLETIONS, {"prompt": [5]}),
        (CHAT, {"messages": USER}),
        ("/tokenize", {"prompt": "x"}),
    ):
        message = server.refused(route, {**body, "model": "gpt"}, 404)
        assert "'gpt'" in message
        assert "'tiny'" in message


@pytest.mark.parametrize("route", [GENERATE, COMPLETIONS, CHAT, "/tokenize", "/detokenize", "/serve_weights"])
@pytest.mark.parametrize("data", [b"", b"garbage", b"[]", b"null", b'{"token_ids":', b"\xff\xfe", b"[" * 5000])
def test_bodies_that_are_no_request(server, route, data):
    answer = server.http.post(route, data=data)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_random_bytes_and_mangled_requests_never_break_the_server(server):
    rng = random.Random(0)
    good = b'{"token_ids":[5,6,7],"sampling_params":{"max_tokens":2,"seed":1,"logprobs":0}}'
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        answer = server.http.post(GENERATE, data=bytes(data))
        assert answer.status_code in (200, 400, 404), answer.text
        answer.json()


def test_a_body_beyond_the_limit_is_413(server):
    body = {"token_ids": [5] * 600_000, "sampling_params": {}}
    assert "max_body_mb" in server.refused(GENERATE, body, 413)


def test_unknown_paths_and_methods_answer_in_the_same_form(server):
    missing = server.http.get("/v1/nothing")
    assert (missing.status_code, openai_error(missing)["code"]) == (404, "not_found")
    assert "/v1/nothing" in openai_error(missing)["message"]
    wrong = server.http.get(CHAT)
    assert (wrong.status_code, openai_error(wrong)["code"]) == (405, "method_not_allowed")
    assert "POST" in openai_error(wrong)["message"]


@pytest.mark.parametrize("value", ["soon", "-1", "0", "inf", "nan"])
def test_a_bad_deadline_header_is_refused(server, value):
    body = {"token_ids": [5], "sampling_params": {"max_tokens": 1}}
    answer = server.http.post(GENERATE, body, headers={"x-request-timeout-s": value})
    assert answer.status_code == 400
    assert "x-request-timeout-s" in answer.json()["error"]["message"]


def test_a_request_out_of_time_is_504_and_frees_its_slot(server):
    body = {"token_ids": [5], "sampling_params": {"max_tokens": 500, "ignore_eos": True}}
    answer = server.http.post(GENERATE, body, headers={"x-request-timeout-s": "0.02"})
    assert answer.status_code == 504
    assert "request_timeout_s" in answer.json()["error"]["message"]
    assert server.metric("requests_running") == 0


def test_an_error_answer_says_nothing_of_the_code(server):
    for data in (b"garbage", b'{"token_ids":[99999],"sampling_params":{}}'):
        assert "Traceback" not in server.http.post(GENERATE, data=data).text
        assert ".py" not in server.http.post(GENERATE, data=data).text
