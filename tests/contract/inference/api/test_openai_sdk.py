"""OpenAI's Python SDK with the policy server: requests, responses, errors."""

import asyncio
import contextlib
import inspect
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import openai
import pytest
from openai.resources.chat.completions import Completions as ChatCompletions
from openai.resources.completions import Completions
from support.inference.inference_support import Http, environment, model, running_server, save, wait_until

HELLO = [{"role": "user", "content": "hello 1"}]
OF_THE_SDK = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}


def client_of(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


@pytest.fixture(scope="module")
def client(server):
    with client_of(server) as made:
        yield made


def test_a_chat_with_log_probs(client):
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, max_completion_tokens=12, seed=3, logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices
    assert (answer.object, answer.model, choice.message.role) == ("chat.completion", "tiny", "assistant")
    assert 0 < answer.usage.completion_tokens <= 12
    spelled = b"".join(bytes(token.bytes) for token in choice.logprobs.content)
    assert spelled.decode() == choice.message.content
    assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("temperature", [1.5, 0])
def test_the_likeliest_tokens_are_sorted_and_include_the_sampled_token_only_if_likely(client, stream, temperature):
    request = {"model": "tiny", "messages": HELLO, "max_tokens": 40, "seed": 3, "temperature": temperature, "n": 2}

    def entries(**more):
        answer = client.chat.completions.create(**request, **more, extra_body={"ignore_eos": True}, logprobs=True)
        choices = [choice for event in answer for choice in event.choices] if stream else answer.choices
        return [token for i in (0, 1) for c in choices if c.index == i and c.logprobs for token in c.logprobs.content]

    few, many = entries(top_logprobs=3, stream=stream), entries(top_logprobs=20, stream=stream)
    assert len(few) == len(many) == 80
    outside = 0
    for entry, wide in zip(few, many, strict=True):
        values = [top.logprob for top in entry.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert len(values) == 3
        assert entry.top_logprobs == wide.top_logprobs[:3]
        listed = [top for top in entry.top_logprobs if top.token == entry.token]
        assert [top.logprob for top in listed] == ([entry.logprob] if entry.logprob >= values[-1] else [])
        outside += not listed
    assert bool(outside) == bool(temperature)
    assert all(token.top_logprobs == [] for token in entries(stream=stream))


def test_a_streamed_chat_joins_to_the_response(client):
    request = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "seed": 3}
    whole = client.chat.completions.create(**request)
    events = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.delta.content or "" for e in events for c in e.choices) == whole.choices[0].message.content
    assert events[-1].usage == whole.usage


def test_a_conversation_continues_with_the_sdks_reply(client):
    reply = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=4, seed=1).choices[0].message
    for said in (reply, reply.model_dump(), {**reply.model_dump(), "tool_calls": [], "annotations": []}):
        messages = [*HELLO, said, {"role": "user", "content": "go on"}]
        assert client.chat.completions.create(model="tiny", messages=messages, max_tokens=1).choices


def test_a_completion(client):
    special = {"skip_special_tokens": False}
    answer = client.completions.create(
        model="tiny", prompt="hello", max_tokens=6, seed=2, logprobs=2, extra_body=special
    )
    (choice,) = answer.choices
    assert "".join(choice.logprobs.tokens) == choice.text
    assert answer.usage.completion_tokens == len(choice.logprobs.tokens)
    for token, offset in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True):
        assert choice.text.startswith(token, offset)


@pytest.mark.parametrize(
    ("route", "method", "needed"),
    [
        ("/v1/chat/completions", ChatCompletions.create, {"messages": HELLO}),
        ("/v1/completions", Completions.create, {"prompt": "a"}),
    ],
    ids=["chat", "completions"],
)
def test_every_parameter_of_the_sdk_set_to_null_has_no_effect(server, route, method, needed):
    names = set(inspect.signature(inspect.unwrap(method)).parameters) - OF_THE_SDK - set(needed)
    assert len(names) > 15
    request = {**needed, "max_tokens": 5, "seed": 4}
    answers = [server.post(route, {**dict.fromkeys(names), **request}), server.post(route, request)]
    assert answers[0]["choices"] == answers[1]["choices"]


def test_models_are_listed_and_found_by_name(client):
    (only,) = client.models.list().data
    assert (only.id, client.models.retrieve("tiny").id) == ("tiny", "tiny")
    for name in ("gpt-4o", "tiny/", "a/b c?d"):
        with pytest.raises(openai.NotFoundError) as error:
            client.models.retrieve(name)
        assert (error.value.code, error.value.param, error.value.type) == (
            "model_not_found",
            "model",
            "invalid_request_error",
        )
        assert repr(name) in error.value.message


def test_errors_map_to_the_sdks_classes_and_name_the_parameter(client):
    def refused(**changes):
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(**{"model": "tiny", "messages": HELLO, "max_tokens": 2, **changes})
        assert error.value.type == "invalid_request_error"
        return error.value.param, error.value.code

    assert refused(temperature=-1) == ("temperature", None)
    assert refused(max_tokens="many") == ("max_tokens", None)
    assert refused(max_completion_tokens=0) == ("max_completion_tokens", None)
    assert refused(presence_penalty=0.5) == ("presence_penalty", "unsupported_parameter")
    assert refused(response_format={"type": "json_object"}) == ("response_format", "unsupported_parameter")
    assert refused(extra_body={"temprature": 1}) == ("temprature", "unknown_parameter")
    assert refused(messages=[{"role": "user", "content": "a" * 1000}]) == ("messages", "context_length_exceeded")
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert error.value.code == "model_not_found"


async def test_concurrent_first_chats_of_a_server_succeed(tmp_path):
    """While the first chat imports transformers and reads the template, further chats arrive."""
    with running_server(tmp_path, f'model = "{save(model(1), tmp_path / "model")}"\n') as server:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
            request = {"model": "policy", "messages": HELLO, "max_tokens": 3, "seed": 5}
            answers = await asyncio.gather(*(client.chat.completions.create(**request) for _ in range(6)))
    assert len({answer.choices[0].message.content for answer in answers}) == 1


@contextlib.contextmanager
def starting_server(folder):
    """A server that has bound its port and is still loading its model."""
    command = [sys.executable, "-m", "arlarena.inference", "--model", str(save(model(1), folder)), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment())
    try:
        yield Http(f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}")
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow  # waits until a model is loaded
def test_the_sdks_retries_last_until_the_model_is_loaded(tmp_path, monkeypatch):
    """The SDK waits as long as `Retry-After` says and retries twice. The test shortens each wait to the time in which
    this model loads.
    """
    with starting_server(tmp_path) as http:
        waits = []

        def sleep(seconds):
            waits.append(seconds)
            wait_until(lambda: http.get("/ready").status_code == 200, "ready", 60)

        monkeypatch.setattr(openai._base_client, "time", SimpleNamespace(sleep=sleep, time=time.time))
        with openai.OpenAI(base_url=f"{http.url}/v1", api_key="unused") as client:
            assert client.chat.completions.create(model="policy", messages=HELLO, max_tokens=1).choices
    assert waits == [30.0]


@pytest.mark.slow  # starts a server
def test_health_and_ready_have_retry_after_1_while_the_model_loads(tmp_path):
    with starting_server(tmp_path) as http:
        found = {path: http.get(path) for path in ("/health", "/ready", "/v1/models")}
        assert {path: answer.status_code for path, answer in found.items()} == dict.fromkeys(found, 503)
        assert [answer.headers["retry-after"] for answer in found.values()] == ["1", "1", "30"]
        assert all("/ready" in answer.json()["error"]["message"] for answer in found.values())
