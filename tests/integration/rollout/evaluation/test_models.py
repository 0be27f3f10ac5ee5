"""The adapters against imitation servers, over real HTTP: through the vendors' SDKs, and without an SDK."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from support.evaluation.asking import SEED, ask, running
from support.evaluation.faults import ANSWERED, FAULTS, Fault, FaultRates
from support.evaluation.imitation import HUGE, KEY, Canned, Imitation, Kind, serve
from support.evaluation.sdks import KINDS, needs_sdk

from arlarena.rollout.evaluation.models.connection import MAX_MESSAGE, ApiLimits
from arlarena.rollout.evaluation.models.errors import Denied, ModelError, Rejected, Retryable, TooLong
from arlarena.rollout.evaluation.models.protocol import ChatModel, ModelMessage, PictureBytes, Reply, TokenUsage
from arlarena.rollout.evaluation.models.registry import BASE_URL_KEY, open_model

PNG = PictureBytes("image/png", b"\x89PNG\r\n\x1a\n0123")
JPEG = PictureBytes("image/jpeg", b"\xff\xd8\xff0123")

every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BASE_URL_KEY, KEY)


async def reply_or_error(model: ChatModel) -> Reply | ModelError:
    try:
        return await ask(model)
    except ModelError as error:
        return error


@every_kind
async def test_a_conversation_with_images_arrives_as_it_was_sent(kind: Kind) -> None:
    conversation = (
        ModelMessage("system", "You play Sokoban."),
        ModelMessage("user", "Turn 1", (PNG, JPEG)),
        ModelMessage("assistant", "<action>up</action>"),
        ModelMessage("user", "Turn 2: ä \U0001f600", (PNG,)),
    )
    async with running(kind) as (server, model):
        await ask(model, *conversation)
        assert server.last.messages == conversation
        assert server.last.model == "m-1"


@every_kind
async def test_sampling_parameters_arrive(kind: Kind) -> None:
    async with running(kind, script=lambda _: "one two three STOP four") as (server, model):
        reply = await ask(model, temperature=0.5, top_p=0.25, max_tokens=2, stop=("STOP",))
        assert (reply.text, reply.finish) == ("one two", "length")
        body = server.last.body.get("generationConfig", server.last.body)
        assert (body["temperature"], body.get("top_p", body.get("topP"))) == (0.5, 0.25)
        seeds = {"openai": SEED, "compatible": SEED, "anthropic": None, "google": 2**31 - 1}
        assert body.get("seed") == seeds[kind]
        reply = await ask(model, stop=("STOP",))
        assert (reply.text.strip(), reply.finish) == ("one two three", "stop")
        body = server.last.body.get("generationConfig", server.last.body)
        assert not {"temperature", "top_p", "topP"} & body.keys()


@every_kind
async def test_a_reply_has_the_vendors_counts_and_names(kind: Kind) -> None:
    options = {"script": lambda _: "a b c", "reasoning": "hm hm", "cached": 1}
    async with running(kind, **options) as (_, model):
        reply = await ask(model)
    assert (reply.text, reply.reasoning, reply.finish) == ("a b c", "hm hm", "stop")
    # Two words in, of which one is cached; three words and two of reasoning out.
    assert reply.usage == TokenUsage(input=2, output=5, reasoning=2, cached=1)
    assert reply.model.startswith("m-1-")
    assert reply.request_id.endswith(("-1", "_1"))


RETRYABLE: dict[Fault, bool] = {
    "rate_limit": False, "server_error": True, "overloaded": False, "timeout": True, "drop": True, "html": True,
}  # fmt: skip


@every_kind
async def test_a_failure_is_retryable_and_the_next_request_succeeds(kind: Kind) -> None:
    async with running(kind, limits=ApiLimits(request_s=0.5), retry_after="12") as (server, model):
        await ask(model)
        for fault, charged in RETRYABLE.items():
            server.next.append(fault)
            before = server.counts.requests
            with pytest.raises(Retryable) as caught:
                await ask(model)
            assert server.counts.requests == before + 1, f"{fault}: the SDK repeated the request"
            assert caught.value.possibly_charged is charged, fault
            assert caught.value.retry_after_s == (12.0 if fault == "rate_limit" else None), fault
            assert len(str(caught.value)) <= MAX_MESSAGE
            assert KEY not in str(caught.value)
            assert (await ask(model)).finish == "stop"
    assert set(RETRYABLE) | ANSWERED == set(FAULTS)


@every_kind
async def test_unusual_replies_are_replies(kind: Kind) -> None:
    async with running(kind) as (server, model):
        server.next.extend(("refusal", "empty", "huge", "tool_call"))
        refusal, empty, huge, tool_call = [await ask(model) for _ in range(4)]
    assert refusal.finish == "refusal"
    assert (empty.text, empty.finish) == ("", "stop")
    assert (huge.text, huge.finish) == ("x" * HUGE, "stop")
    assert (tool_call.text, tool_call.finish) == ("", "tool_calls")


@every_kind
async def test_an_empty_reply_in_the_conversation_is_accepted(kind: Kind) -> None:
    async with running(kind) as (server, model):
        await ask(model, ModelMessage("user", "a"), ModelMessage("assistant", ""), ModelMessage("user", "b"))
        assert [message.text for message in server.last.messages if message.text] == ["a", "b"]


@every_kind
async def test_wrong_key_unknown_model_and_long_prompts_are_told_apart(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(kind, context=100) as (server, model):
        with pytest.raises(TooLong):
            await ask(model, ModelMessage("user", "word " * 101))
        unknown = open_model(f"{kind}/unknown-1", base_url=server.url)
        with pytest.raises(Denied, match="unknown-1"):
            await ask(unknown)
        monkeypatch.setenv(BASE_URL_KEY, "sk-wrong-key-0123")
        wrong = open_model(f"{kind}/m-1", base_url=server.url)
        with pytest.raises(Denied, match=BASE_URL_KEY) as caught:
            await ask(wrong)
        assert "sk-wrong" not in str(caught.value)
        await unknown.close()
        await wrong.close()


@every_kind
async def test_a_redirect_is_not_followed(kind: Kind) -> None:
    async with serve(Imitation(kind)) as other, running(kind) as (server, model):
        for status in (301, 302, 307, 308):
            server.next.append(Canned(status, headers={"location": other.url + "/v1/chat/completions"}))
            with pytest.raises(Denied, match="redirects to"):
                await ask(model)
        assert other.counts.requests == 0


@every_kind
async def test_a_reply_above_the_limit_or_compressed_is_rejected(kind: Kind) -> None:
    async with running(kind, limits=ApiLimits(reply_bytes=HUGE // 2)) as (server, model):
        server.next.append("huge")
        with pytest.raises(Rejected, match="more than 50000 bytes"):
            await ask(model)
        server.next.append(Canned(200, b"\x1f\x8b0", {"content-encoding": "gzip"}))
        with pytest.raises(Rejected, match="gzip"):
            await ask(model)


HOSTILE = [
    b"{}", b"[]", b"null", b"3", b'"x"', b"{", b"", b"\xff", b"[" * 100_000,
    b'{"choices": 5, "content": 5, "candidates": 5}',
    b'{"choices": {"a": 1}, "content": {"a": 1}, "candidates": {"a": 1}}',
    b'{"choices": [null], "content": [null], "candidates": [null]}',
    b'{"choices": [{}], "content": [{}], "candidates": [{}]}',
    b'{"choices": [], "content": "x", "candidates": []}',
    b'{"choices": [{"message": {"content": 5}, "finish_reason": {}}], "content": [{"type": "text", "text": 5}],'
    b' "usage": {"prompt_tokens": "many", "input_tokens": -1}, "model": 7, "id": []}',
]  # fmt: skip


@every_kind
async def test_a_malformed_response_is_an_error_of_the_model(kind: Kind) -> None:
    outcomes = []
    async with running(kind) as (server, model):
        for body in HOSTILE:
            for content_type in ("application/json", "text/html"):
                server.next.append(Canned(200, body, {"content-type": content_type}))
                outcome = await reply_or_error(model)
                if isinstance(outcome, Reply):
                    record = msgspec.json.decode(msgspec.json.encode(outcome), type=Reply)
                    assert record == outcome, body
                    assert outcome.usage.input is None, body
                else:
                    assert len(str(outcome)) <= MAX_MESSAGE
                outcomes.append(isinstance(outcome, Reply))
        assert (await ask(model)).finish == "stop"
    assert outcomes.count(True) <= len(outcomes) / 3


async def test_choices_that_are_no_list_are_named() -> None:
    async with running("openai") as (server, model):
        server.next.append(Canned(200, b'{"choices": {"a": 1}}'))
        with pytest.raises(Rejected, match="the field choices is not a list"):
            await ask(model)


@every_kind
async def test_half_a_surrogate_pair_can_be_recorded(kind: Kind) -> None:
    async with running(kind, script=lambda _: "a\ud800b") as (_, model):
        assert (await ask(model)).text == "a?b"


async def test_a_server_that_is_not_there_is_retryable_and_free() -> None:
    needs_sdk("openai")
    async with serve(Imitation("openai")) as server:
        url = server.url
    model = open_model("m", base_url=url)
    with pytest.raises(Retryable) as caught:
        await ask(model)
    assert caught.value.possibly_charged is False
    await model.close()


@every_kind
async def test_a_connection_that_closes_without_a_response_is_possibly_charged_and_not_repeated(kind: Kind) -> None:
    needs_sdk(kind)
    connections = 0

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    model = open_model(f"{kind}/m", base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(Retryable) as caught:
        await ask(model)
    assert caught.value.possibly_charged is True
    assert connections == 1, "the SDK repeated the request"
    await model.close()
    server.close()


async def test_a_server_that_sends_a_byte_at_a_time_is_ended_by_the_limit_of_time() -> None:
    needs_sdk("openai")

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    model = open_model("m", base_url=url, limits=ApiLimits(request_s=0.4))
    with pytest.raises(Retryable, match=r"within 0\.4 s"):
        await ask(model)
    await model.close()
    server.close()


async def test_a_model_without_images_and_a_reserved_parameter_are_rejected_before_a_request() -> None:
    needs_sdk("openai")
    async with serve(Imitation("openai")) as server:
        model = open_model("m", base_url=server.url, sees_images=False)
        with pytest.raises(Rejected, match="no images may be sent"):
            await ask(model, ModelMessage("user", "x", (PNG,)))
        with pytest.raises(Denied, match="'stream'"):
            await ask(model, extra={"stream": True})
        with pytest.raises(Rejected, match="user"):
            await ask(model, ModelMessage("assistant", "x"))
        assert server.counts.requests == 0
        await ask(model, extra={"reasoning_effort": "low"})
        assert server.last.body["reasoning_effort"] == "low"
        await model.close()


async def test_a_server_that_rejects_max_tokens_gets_the_other_name_next_time() -> None:
    async with running("openai", name="reasoning-1") as (server, model):
        with pytest.raises(Retryable, match="max_tokens") as caught:
            await ask(model, max_tokens=9)
        assert (caught.value.possibly_charged, caught.value.retry_after_s) == (False, 0.0)
        await ask(model, max_tokens=9)
        assert server.last.body["max_completion_tokens"] == 9
        assert "max_tokens" not in server.last.body


async def test_a_server_that_rejects_the_seed_gets_none_next_time() -> None:
    async with running("openai") as (server, model):
        server.next.append(Canned(400, b'{"error": {"message": "Unknown parameter: \'seed\'.", "param": "seed"}}'))
        with pytest.raises(Retryable):
            await ask(model)
        await ask(model)
        assert "seed" not in server.last.body


@pytest.mark.parametrize("code", ["content_filter", "invalid_prompt"])
async def test_a_prompt_that_a_filter_blocks_is_a_refusal(code: str) -> None:
    async with running("openai") as (server, model):
        server.next.append(Canned(400, json.dumps({"error": {"message": "blocked", "code": code}}).encode()))
        assert (await ask(model)).finish == "refusal"


async def test_an_error_in_a_response_with_status_200_counts_as_its_code() -> None:
    async with running("openai") as (server, model):
        server.next.append(Canned(200, b'{"error": {"message": "no credit", "code": 402}}'))
        with pytest.raises(Denied, match="no credit"):
            await ask(model)
        server.next.append(Canned(200, b'{"error": {"message": "provider down", "code": 502}}'))
        with pytest.raises(Retryable, match="provider down"):
            await ask(model)


async def test_reasoning_that_is_counted_apart_from_the_completion_is_output() -> None:
    async with running("openai") as (server, model):
        usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 20}
        usage_details: dict[str, Any] = {"completion_tokens_details": {"reasoning_tokens": 7}}
        choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        body = {"id": "1", "model": "grok", "choices": [choice], "usage": usage | usage_details}
        server.next.append(Canned(200, json.dumps(body).encode()))
        assert (await ask(model)).usage == TokenUsage(input=10, output=10, reasoning=7, cached=None)


async def test_anthropic_gets_a_limit_and_the_version_that_has_a_temperature_only_if_it_is_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with running("anthropic") as (server, model):
        await ask(model)
        await ask(model)
        assert server.last.body["max_tokens"] == 4096
        assert server.headers["anthropic-version"] >= "2026-10-21"
        assert capsys.readouterr().err.count("default_max_tokens") == 1
        await ask(model, temperature=0.0)
        assert server.headers["anthropic-version"] == "2023-06-01"
        assert server.last.body["temperature"] == 0.0
        body = {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "temperature: not for this model"},
        }
        server.next.append(Canned(400, json.dumps(body).encode()))
        with pytest.raises(Denied, match="temperature"):
            await ask(model, temperature=0.0)


async def test_a_stopped_candidate_of_google_is_a_refusal_and_a_missing_one_is_retryable() -> None:
    async with running("google") as (server, model):
        server.next.append(Canned(200, b'{"candidates": [{"finishReason": "SAFETY"}]}'))
        assert (await ask(model)).finish == "refusal"
        server.next.append(Canned(200, b'{"candidates": [{"finishReason": "NEW_REASON", "content": {"parts": []}}]}'))
        assert (await ask(model)).finish == "other"
        server.next.append(Canned(200, b'{"usageMetadata": {"promptTokenCount": 3}}'))
        with pytest.raises(Retryable, match="no candidates"):
            await ask(model)
        error = {
            "code": 400,
            "status": "INVALID_ARGUMENT",
            "message": "API key not valid.",
        }
        server.next.append(Canned(400, json.dumps({"error": error}).encode()))
        with pytest.raises(Denied, match=BASE_URL_KEY):
            await ask(model)
        with pytest.raises(Denied, match="colour"):
            await ask(model, extra={"colour": "red"})


@every_kind
async def test_a_fifth_of_faults_ends_with_one_reply_per_request(kind: Kind) -> None:
    """48 requests, 16 at a time, each repeated until it succeeds. No answered request is repeated."""
    faults = FaultRates(dict.fromkeys(FAULTS, 0.2 / len(FAULTS)), seed=1)
    gate = asyncio.Semaphore(16)
    async with running(kind, limits=ApiLimits(request_s=1.0), faults=faults, delay_s=0.01) as (server, model):

        async def persistent(number: int) -> Reply:
            async with gate:
                while True:
                    try:
                        return await ask(model, ModelMessage("user", f"question {number}"))
                    except Retryable:
                        continue

        replies = await asyncio.gather(*map(persistent, range(48)))
        counts = server.counts
    assert len(replies) == 48
    assert set(counts.answered.values()) == {1}
    assert len(counts.answered) == 48
    failed = sum(counts.outcomes[fault] for fault in FAULTS if fault not in ANSWERED)
    assert counts.requests == 48 + failed
    assert failed > 0
    assert 1 < counts.most_running <= 16
