"""The common contract of both engines: refused requests, deadlines, and clients that disconnect."""

import json
import time

import pytest
from support.inference.engines_support import (
    CHAT,
    COMPLETIONS,
    GENERATE,
    LENGTH,
    LONGEST,
    SOON_S,
    answered_soon,
    asked_and_left,
    by_route,
    by_text_route,
    much_work,
    request,
    usage,
)
from support.inference.inference_support import VOCABULARY, openai_error, wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def server(engine_server):
    return engine_server


@by_route
def test_an_unknown_model_is_404(server, route):
    for extra in ({}, {"stream": True}):
        assert "gpt" in server.refused(route, request(route, model="gpt", **extra), 404)


def test_text_and_tokens_of_an_unknown_model_are_404(server):
    assert "gpt" in server.refused("/tokenize", {"prompt": "x", "model": "gpt"}, 404)
    assert "gpt" in server.refused("/detokenize", {"tokens": [5], "model": "gpt"}, 404)


@by_route
@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": -1},
        {"temperature": -0.5},
        {"temperature": "hot"},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -2},
        {"n": 0},
        {"stop": [""]},
        {"stop_token_ids": ["x"]},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("extra", [{}, {"stream": True}], ids=["whole", "stream"])
def test_an_invalid_parameter_is_400_and_named(server, route, wrong, extra):
    (name,) = wrong
    assert name in server.refused(route, request(route, **wrong, **extra), 400)


@by_route
def test_too_many_log_probs_are_400_and_an_event_in_vllms_streams(server, engine, route):
    assert "logprobs" in server.refused(route, request(route, logprobs=1000), 400)
    asked = request(route, logprobs=1000, stream=True)
    if engine == "embedded":
        assert "logprobs" in server.refused(route, asked, 400)
    else:
        (event,) = server.http.events(route, asked)
        assert event["error"]["code"] == 400
        assert "logprobs" in event["error"]["message"]


@pytest.mark.parametrize("ids", [[], [VOCABULARY], [5, -1], [2**40], ["a"], None], ids=json.dumps)
def test_invalid_token_ids_are_400(server, ids):
    assert server.refused(GENERATE, {"token_ids": ids, "sampling_params": {"max_tokens": 1}}, 400)


@pytest.mark.parametrize("prompt", [[], "", [[]], [VOCABULARY], [5, -1], [5, "a"], {"a": 1}], ids=json.dumps)
def test_invalid_prompts_are_400(server, prompt):
    assert server.refused(COMPLETIONS, {"prompt": prompt, "max_tokens": 1}, 400)


@pytest.mark.parametrize("messages", [[], "x", [{"content": "x"}], [{"role": "user", "content": 5}]], ids=json.dumps)
def test_invalid_messages_are_400(server, messages):
    assert server.refused(CHAT, {"messages": messages, "max_tokens": 1}, 400)


@by_route
def test_a_prompt_that_is_too_long_is_400_and_names_the_limit(server, route):
    bodies = {
        GENERATE: {"token_ids": [5] * (LENGTH + 1), "sampling_params": {}},
        COMPLETIONS: {"prompt": [5] * (LENGTH + 1)},
        CHAT: {"messages": [{"role": "user", "content": "a" * LENGTH}]},
    }
    message = server.refused(route, bodies[route], 400)
    assert str(LENGTH) in message
    assert "context length" in message or "maximum model length" in message  # clients recognise the error by this text


@by_route
def test_a_prompt_as_long_as_the_context_is_400_and_vllm_gives_a_reason_only_on_generate(server, engine, route):
    bodies = {
        GENERATE: {"token_ids": [5] * LENGTH, "sampling_params": {"max_tokens": 1}},
        COMPLETIONS: {"prompt": [5] * LENGTH, "max_tokens": 1},
        CHAT: {"messages": [{"role": "user", "content": "a" * (LENGTH - 2)}]},
    }
    message = server.refused(route, bodies[route], 400)
    if engine == "embedded" or route == GENERATE:
        assert str(LENGTH) in message
    else:
        assert "max_tokens must be at least 1" in message


@by_text_route
def test_more_tokens_than_the_context_holds_are_refused_by_embedded_and_cut_by_vllm(server, engine, route):
    asked = request(route, max_tokens=LENGTH, ignore_eos=True)
    if engine == "embedded":
        assert "context length" in server.refused(route, asked, 400)
    else:
        assert usage(server.post(route, asked)) == [6, LONGEST, LENGTH]


@by_route
@pytest.mark.parametrize("data", [b"", b"garbage", b"[]", b'{"prompt":', b"\xff\xfe"])
def test_a_body_that_is_not_a_request_is_400(server, route, data):
    answer = server.http.post(route, data=data)
    assert answer.status_code == 400, answer.text
    openai_error(answer)


@by_route
def test_a_body_that_is_nested_too_deep_is_400(server, route):
    answer = server.http.post(route, data=b"[" * 5000)
    assert answer.status_code == 400
    openai_error(answer)


@by_route
def test_a_body_needs_no_content_type(server, route):
    """`curl -d` sends a content type that is not JSON."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert server.http.post(route, request(route, max_tokens=1), headers=headers).status_code == 200


def test_an_unknown_route_is_404_and_a_wrong_method_405(server):
    for answer, status in ((server.http.get("/v1/nothing"), 404), (server.http.get(GENERATE), 405)):
        assert answer.status_code == status
        openai_error(answer)


@by_route
@pytest.mark.parametrize("value", ["soon", "-1", "0", "inf", "nan"])
def test_an_invalid_deadline_is_400(server, route, value):
    answer = server.http.post(route, request(route, max_tokens=1), headers={"x-request-timeout-s": value})
    assert answer.status_code == 400
    assert "x-request-timeout-s" in answer.json()["error"]["message"]


def test_a_request_past_its_deadline_is_504_and_frees_its_slots(server):
    began = time.monotonic()
    answer = server.http.post(COMPLETIONS, much_work(), headers={"x-request-timeout-s": "0.3"})
    assert time.monotonic() - began < SOON_S
    assert (answer.status_code, openai_error(answer)["code"]) == (504, "deadline_exceeded")
    assert answered_soon(server) == 200


def test_a_stream_past_its_deadline_ends_with_an_error_and_frees_its_slots(server):
    began = time.monotonic()
    *_, last = server.http.events(COMPLETIONS, much_work(stream=True), {"x-request-timeout-s": "1.0"})
    assert time.monotonic() - began < SOON_S
    assert (last["error"]["code"], last["error"]["type"]) == ("deadline_exceeded", "server_error")
    assert answered_soon(server) == 200


@pytest.mark.parametrize("extra", [{}, {"stream": True}], ids=["whole", "stream"])
def test_a_disconnected_client_frees_its_slots(server, extra):
    with asked_and_left(server, much_work(**extra)):
        wait_until(lambda: answered_soon(server, 0.3) == 504, "all slots taken")
    assert answered_soon(server) == 200
