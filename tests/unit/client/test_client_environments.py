"""The environment client: shared requests, idempotent retries, and an exception class for each kind of error."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import AtCapacity, PolicyFault, ProtocolError, Refused, SessionLost, Unavailable
from arlarena.client.transport import Timeouts


def result(step: int, **changes: Any) -> dict[str, Any]:
    observation = {
        "text": f"room {step}",
        "prompt": f"prompt {step}",
        "images": [{"mime": "image/png", "sha256": "ab", "width": 1, "height": 1}],
        "terminated": False,
        "truncated": False,
        "action_valid": True,
        "format_valid": step != 1,
        "step": step,
        "remaining_steps": 9,
    }
    return {
        "session_id": "s",
        "ok": True,
        "observation": observation | changes,
        "reward": None if step == 0 else -0.1,
        "done": False,
        "metadata": {"task_id": "t", "state_key": f"k{step}", "observation_key": f"o{step}", "unknown": [1]},
    }


def failure(code: str, blame: str, retryable: bool = False) -> dict[str, Any]:
    error = {"code": code, "message": "because", "blame": blame, "retryable": retryable}
    return {"session_id": "s", "ok": False, "error": error}


class FakeServer:
    """Opens sessions. Replies to an item with the next entry of `answers`, or with the next step."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self.batches: list[list[dict[str, Any]]] = []
        self.steps: dict[str, int] = {}
        self.drop_answers = 0

    async def __call__(self, request: web.Request) -> web.Response:
        if request.path == "/v1/sessions":
            count = (await request.json()).get("count", 1)
            return web.json_response(
                {"sessions": [{"session_id": f"s{i}", "lease_expires_at": 0.0} for i in range(count)]}
            )
        items = (await request.json())["items"]
        self.batches.append(items)
        body = {"results": [self.answer(item) for item in items]}
        if self.drop_answers:
            self.drop_answers -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response(body)

    def answer(self, item: dict[str, Any]) -> dict[str, Any]:
        if self.answers:
            return self.answers.pop(0)
        if item["op"] == "close":
            return {"session_id": item["session_id"], "ok": True}
        if item["op"] == "reset":
            self.steps[item["session_id"]] = 0
        elif item["step_index"] == self.steps[item["session_id"]]:
            self.steps[item["session_id"]] += 1
        return result(self.steps[item["session_id"]])


@pytest.fixture
async def fake_server(serve: Any) -> Any:
    fake_server = FakeServer()
    async with EnvironmentClient(await serve(fake_server), Timeouts(request_s=2.0), retries=1) as client:
        yield fake_server, client


async def test_a_session_from_reset_to_close(fake_server: Any) -> None:
    server, client = fake_server
    (session,) = await client.open(1)
    state = await session.reset(split="train", index=7, seed=3, episode_id="e")
    assert (state.prompt, state.observation.text, state.reward, state.observation.step, state.done) == (
        "prompt 0",
        "room 0",
        0.0,
        0,
        False,
    )
    state = await session.step("<action>up</action>")
    assert (state.reward, state.observation.format_valid, state.observation.action_valid, state.images) == (
        -0.1,
        False,
        True,
        ("ab",),
    )
    assert (state.metadata.state_key, state.metadata.observation_key) == ("k1", "o1")
    await session.step("down")
    await session.close()
    sent = [item for batch in server.batches for item in batch]
    assert [item["op"] for item in sent] == ["reset", "step", "step", "close"]
    assert [item["step_index"] for item in sent[1:3]] == [0, 1]
    assert [item["action"]["text"] for item in sent[1:3]] == ["<action>up</action>", "down"]


async def test_concurrent_sessions_share_requests(fake_server: Any) -> None:
    server, client = fake_server
    sessions = await client.open(40)
    await asyncio.gather(*(one.reset(split="train", index=i) for i, one in enumerate(sessions)))
    await asyncio.gather(*(one.step("up") for one in sessions))
    await asyncio.gather(*(one.close() for one in sessions))
    assert [len(batch) for batch in server.batches] == [40, 40, 40]


async def test_a_step_with_a_lost_response_is_taken_once(fake_server: Any) -> None:
    server, client = fake_server
    (session,) = await client.open(1)
    await session.reset(split="train", index=0)
    server.drop_answers = 1
    state = await session.step("up")
    assert state.observation.step == 1
    assert server.steps == {"s0": 1}
    assert [batch[0]["step_index"] for batch in server.batches[1:]] == [0, 0]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (failure("unknown_session", "client"), SessionLost),
        (failure("crashed", "infra"), Unavailable),
        (failure("busy", "client", retryable=True), Unavailable),
        (failure("too_long", "policy"), PolicyFault),
        (failure("unknown_task", "client"), Refused),
        ({"session_id": "s", "ok": True}, ProtocolError),
    ],
)
async def test_each_error_code_raises_its_exception(
    fake_server: Any, answer: dict[str, Any], kind: type[Exception]
) -> None:
    server, client = fake_server
    (session,) = await client.open(1)
    server.answers = [answer]
    with pytest.raises(kind) as caught:
        await session.reset(split="train", index=0)
    assert type(caught.value) is kind


async def test_an_error_of_one_item_does_not_affect_its_batch(fake_server: Any) -> None:
    server, client = fake_server
    sessions = await client.open(3)
    server.answers = [result(0), failure("unknown_session", "infra", retryable=True), result(0)]
    states = await asyncio.gather(*(one.reset(split="train", index=0) for one in sessions), return_exceptions=True)
    assert [isinstance(state, SessionLost) for state in states] == [False, True, False]


@pytest.mark.parametrize("body", [{"results": []}, {"results": "no"}, {"answers": []}])
async def test_an_invalid_batch_response_is_an_error(serve: Any, body: Any) -> None:
    async def handle(request: web.Request) -> web.Response:
        if request.path == "/v1/sessions":
            return web.json_response({"sessions": [{"session_id": "s", "lease_expires_at": 0.0}]})
        return web.json_response(body)

    async with EnvironmentClient(await serve(handle)) as client:
        (session,) = await client.open(1)
        with pytest.raises(ProtocolError, match="invalid response"):
            await session.reset(split="train", index=0)


async def test_opening_is_all_or_nothing(serve: Any) -> None:
    async def full(request: web.Request) -> web.Response:
        return web.json_response(
            {"code": "capacity_reached", "message": "full", "blame": "infra", "retryable": True},
            status=503,
            headers={"Retry-After": "3"},
        )

    async def short(request: web.Request) -> web.Response:
        return web.json_response({"sessions": [{"session_id": "s", "lease_expires_at": 0.0}]})

    async with EnvironmentClient(await serve(full)) as client:
        with pytest.raises(AtCapacity) as caught:
            await client.open(8)
        assert caught.value.retry_after_s == 3.0
    async with EnvironmentClient(await serve(short)) as client:
        with pytest.raises(ProtocolError, match="asked for 8 sessions, got 1"):
            await client.open(8)


async def test_closing_never_fails(unused_tcp_port: int, fake_server: Any) -> None:
    server, client = fake_server
    (session,) = await client.open(1)
    server.answers = [failure("unknown_session", "client")]
    await session.close()
    away = EnvironmentClient(f"http://127.0.0.1:{unused_tcp_port}", retries=0)
    session._client = away
    await session.close()
    await away.close()
