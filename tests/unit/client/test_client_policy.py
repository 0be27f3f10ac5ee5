"""The policy client: its requests, its decoding of responses, and its retries."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from arlarena.client.errors import AtCapacity, PromptTooLong, ProtocolError, Refused, Unavailable
from arlarena.client.policy import PolicyClient, read_version
from arlarena.client.transport import HttpTransport, Timeouts
from arlarena.proto.trajectory import PolicyVersion, Sampling, VersionSpan


def generated(**changes: Any) -> dict[str, Any]:
    """A response of the token route as both engines send it, with fields that a client ignores."""
    choice = {
        "index": 0,
        "token_ids": [5, 6, 2],
        "finish_reason": "stop",
        "stop_reason": None,
        "logprobs": {
            "content": [{"token_id": i, "logprob": -i / 10, "rank": 1, "top_logprobs": []} for i in (5, 6, 2)]
        },
        "weight_versions": [{"version": "a:1:x", "start": 0, "end": 1}, {"version": "a:2:y", "start": 1, "end": 3}],
        "routed_experts": None,
    }
    return {"request_id": "r", "choices": [choice | changes], "kv_transfer_params": None}


def answering(*answers: Any) -> Any:
    """A handler that sends a list of responses: a status, a body, or a pause in seconds before the next one."""
    waiting = list(answers)

    async def handle(request: web.Request) -> web.Response:
        handle.requests.append((request.path, dict(request.headers), await request.read()))  # type: ignore[attr-defined]
        answer = waiting.pop(0)
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            answer = waiting.pop(0)
        if isinstance(answer, int):
            return web.json_response({"error": {"message": "no", "type": "x", "code": answer}}, status=answer)
        return web.json_response(answer)

    handle.requests = []  # type: ignore[attr-defined]
    return handle


async def test_generate_uses_the_messages_of_vllm(serve: Any) -> None:
    handler = answering(generated())
    async with PolicyClient(await serve(handler), Timeouts(request_s=7.5)) as policy:
        generation = await policy.generate([1, 2, 3], Sampling(0.8, 0.9, 40, 16), seed=2**63 - 1, request_id="g/0/1")
    path, headers, body = handler.requests[0]
    sent = json.loads(body)
    assert path == "/inference/v1/generate"
    assert headers["x-request-timeout-s"] == "7.5"
    assert (sent["token_ids"], sent["request_id"]) == ([1, 2, 3], "g/0/1")
    expected = {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 2**63 - 1, "max_tokens": 16, "logprobs": 0}
    assert {key: sent["sampling_params"][key] for key in expected} == expected
    assert generation.token_ids == [5, 6, 2]
    assert generation.logprobs == [-0.5, -0.6, -0.2]
    assert generation.finish_reason == "stop"
    assert generation.spans == (
        VersionSpan(0, 1, PolicyVersion("a", 1, "x")),
        VersionSpan(1, 3, PolicyVersion("a", 2, "y")),
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"token_ids": [5, 6]}, "2 token ids but 3 log-probs"),
        ({"logprobs": None}, "3 token ids but 0 log-probs"),
        ({"weight_versions": None}, "do not cover its 3 tokens"),
        ({"weight_versions": [{"version": "a:1:x", "start": 1, "end": 3}]}, "do not cover"),
        ({"weight_versions": [{"version": "a:1:x", "start": 0, "end": 2}]}, "do not cover"),
        ({"finish_reason": "tool_calls"}, "finish reason 'tool_calls'"),
        ({"finish_reason": None}, "finish reason None"),
        ({"token_ids": "no"}, "Expected `array"),
    ],
)
async def test_an_inconsistent_response_is_an_error(serve: Any, changes: dict[str, Any], why: str) -> None:
    async with PolicyClient(await serve(answering(generated(**changes)))) as policy:
        with pytest.raises(ProtocolError, match=why):
            await policy.generate([1], Sampling(), seed=0)


async def test_a_response_without_choices_or_json_is_an_error(serve: Any) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(text="<html>")

    for handler in (answering({"choices": []}), handle):
        async with PolicyClient(await serve(handler)) as policy:
            with pytest.raises(ProtocolError, match="returned an invalid response"):
                await policy.generate([1], Sampling(), seed=0)


async def test_an_aborted_generation_is_unavailable(serve: Any) -> None:
    async with PolicyClient(await serve(answering(generated(finish_reason="abort")))) as policy:
        with pytest.raises(Unavailable, match="aborted"):
            await policy.generate([1], Sampling(), seed=0)


@pytest.mark.parametrize("trouble", [500, 502, 503, 504, 408, 429])
async def test_a_failing_server_is_retried(serve: Any, trouble: int) -> None:
    handler = answering(trouble, trouble, generated())
    async with PolicyClient(await serve(handler), retries=2) as policy:
        assert (await policy.generate([1], Sampling(), seed=0)).token_ids == [5, 6, 2]
    assert len({body for _, _, body in handler.requests}) == 1
    handler = answering(trouble, trouble)
    async with PolicyClient(await serve(handler), retries=1) as policy:
        with pytest.raises(Unavailable, match=str(trouble)):
            await policy.generate([1], Sampling(), seed=0)


async def test_a_slow_server_is_unavailable_after_the_request_timeout(serve: Any) -> None:
    async with PolicyClient(await serve(answering(30.0, generated())), retries=0) as policy:
        with pytest.raises(Unavailable, match=r"no answer within 0\.05 s"):
            await policy.generate([1], Sampling(), seed=0, timeout_s=0.05)


async def test_an_unreachable_server_is_unavailable(unused_tcp_port: int) -> None:
    async with PolicyClient(f"http://127.0.0.1:{unused_tcp_port}", retries=0) as policy:
        with pytest.raises(Unavailable, match=str(unused_tcp_port)):
            await policy.generate([1], Sampling(), seed=0)
        assert not await policy.healthy()


async def test_refused_requests_are_not_retried(serve: Any) -> None:
    handler = answering(400)
    async with PolicyClient(await serve(handler)) as policy:
        with pytest.raises(Refused, match="refused with 400"):
            await policy.generate([1], Sampling(), seed=0)
    assert len(handler.requests) == 1


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8 tokens, but the prompt has 9",
        "The decoder prompt (length 600) is longer than the maximum model length of 512.",
    ],
)
async def test_a_too_long_prompt_raises_prompt_too_long(serve: Any, message: str) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": message, "type": "BadRequestError", "code": 400}}, status=400)

    async with PolicyClient(await serve(handle)) as policy:
        with pytest.raises(PromptTooLong):
            await policy.generate([1] * 9, Sampling(), seed=0)


async def test_chat_model_and_version(serve: Any) -> None:
    chat = {
        "choices": [{"message": {"role": "assistant", "content": "up"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 1},
    }
    models = {"object": "list", "data": [{"id": "policy", "object": "model", "max_model_len": 512}]}
    handler = answering(chat, models, {"weight_version": "run:7:abc"}, {"data": []})
    async with PolicyClient(await serve(handler)) as policy:
        reply = await policy.chat(
            [{"role": "user", "content": "where"}], Sampling(max_tokens=5), model="policy", seed=3
        )
        assert (reply.text, reply.finish_reason, reply.prompt_tokens, reply.response_tokens) == ("up", "stop", 4, 1)
        info = await policy.model()
        assert (info.name, info.max_tokens) == ("policy", 512)
        assert await policy.version() == PolicyVersion("run", 7, "abc")
        with pytest.raises(ProtocolError, match="no models"):
            await policy.model()
    sent = json.loads(handler.requests[0][2])
    assert (sent["model"], sent["seed"], sent["max_tokens"], sent["messages"][0]["content"]) == (
        "policy",
        3,
        5,
        "where",
    )


def newer_model(requests: list[tuple[str, dict[str, Any]]]) -> Any:
    """A server whose model accepts only `max_completion_tokens`, with the errors of OpenAI's API."""

    async def handle(request: web.Request) -> web.Response:
        body = await request.json()
        requests.append((request.path, body))
        if "max_tokens" in body:
            error = {
                "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                "type": "invalid_request_error",
                "param": "max_tokens",
                "code": "unsupported_parameter",
            }
            return web.json_response({"error": error}, status=400)
        return web.json_response({"choices": [{"message": {"content": "up"}, "finish_reason": "stop"}]})

    return handle


@pytest.mark.parametrize("end", ["/v1", "/v1/", "/"])
async def test_a_model_that_requires_max_completion_tokens_gets_it(serve: Any, end: str) -> None:
    requests: list[tuple[str, dict[str, Any]]] = []
    async with PolicyClient(await serve(newer_model(requests)) + end) as policy:
        for _ in range(2):
            assert (await policy.chat([{"role": "user", "content": "x"}], Sampling(max_tokens=5))).text == "up"
    assert {path for path, _ in requests} == {"/v1/chat/completions"}
    lengths = [(body.get("max_tokens"), body.get("max_completion_tokens")) for _, body in requests]
    assert lengths == [(5, None), (None, 5), (None, 5)]


async def test_concurrent_chats_all_get_max_completion_tokens(serve: Any) -> None:
    requests: list[tuple[str, dict[str, Any]]] = []
    async with PolicyClient(await serve(newer_model(requests))) as policy:
        chats = [policy.chat([{"role": "user", "content": "x"}], Sampling(max_tokens=5)) for _ in range(8)]
        assert {reply.text for reply in await asyncio.gather(*chats)} == {"up"}


async def test_an_error_about_max_completion_tokens_is_raised(serve: Any) -> None:
    error = {"message": "max_completion_tokens must be at most 4096", "type": "invalid_request_error"}
    paths = []

    async def handle(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.json_response({"error": error}, status=400)

    async with PolicyClient(await serve(handle)) as policy:
        with pytest.raises(Refused, match="at most 4096"):
            await policy.chat([{"role": "user", "content": "x"}], Sampling(max_tokens=5))
    assert len(paths) == 2


@pytest.mark.parametrize(
    ("label", "version"),
    [
        ("a:12:ff", PolicyVersion("a", 12, "ff")),
        ("7", PolicyVersion("unlabelled", 0, "7")),
        ("", PolicyVersion("unlabelled", 0, "-")),
        ("x:y:z:w", PolicyVersion("unlabelled", 0, "x-y-z-w")),
    ],
)
def test_foreign_version_labels_become_unlabelled(label: str, version: PolicyVersion) -> None:
    assert read_version(label) == version
    assert PolicyVersion.parse(str(version)) == version


async def test_a_full_server_gives_the_retry_time(serve: Any) -> None:
    headers = iter([{"Retry-After": "2.5"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}])

    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=503, headers=next(headers))

    async with HttpTransport(await serve(handle), Timeouts()) as transport:
        for seconds in (2.5, 1.0):
            with pytest.raises(AtCapacity) as caught:
                await transport.request("GET", "/x")
            assert caught.value.retry_after_s == seconds


async def test_more_than_a_hundred_requests_at_once(serve: Any) -> None:
    inside, everybody = 0, asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        nonlocal inside
        inside += 1
        if inside == 200:
            everybody.set()
        await everybody.wait()
        return web.json_response(generated())

    async with PolicyClient(await serve(handle), Timeouts(request_s=10.0), retries=0) as policy:
        answers = await asyncio.gather(*(policy.generate([1], Sampling(), seed=i) for i in range(200)))
    assert inside == len(answers) == 200


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://host", "http://", ""])
def test_an_address_without_scheme_or_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a service address"):
        PolicyClient(url)
