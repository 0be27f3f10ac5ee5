"""OpenEnv's frames on a real socket."""

import asyncio
import time

import aiohttp
import pytest


async def exchange(socket, message):
    if isinstance(message, str):
        await socket.send_str(message)
    else:
        await socket.send_json(message)
    return await socket.receive_json(timeout=10)


async def test_an_episode_over_a_socket(api):
    async with api.session.ws_connect(api.base + "/ws") as socket:
        reset = {"type": "reset", "data": {"split": "train", "index": 7, "episode_id": "e1"}}
        first = await exchange(socket, reset)
        assert (first["type"], first["data"]["reward"], first["data"]["done"]) == ("observation", None, False)
        assert first["data"]["metadata"]["task_id"] == "sokoban/train/7"
        stepped = await exchange(socket, {"type": "step", "data": {"text": "still"}})
        assert stepped["data"]["reward"] == -0.1
        state = await exchange(socket, {"type": "state"})
        assert (state["type"], state["data"]["episode_id"], state["data"]["step_count"]) == ("state", "e1", 1)
        await socket.send_json({"type": "close"})
        closing = await socket.receive(timeout=10)
        assert (closing.type, closing.data) == (aiohttp.WSMsgType.CLOSE, 1000)
    assert (await api("GET", "/v1/capacity"))[1]["active_sessions"] == 0


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{not json", "INVALID_JSON"),
        ("[]", "VALIDATION_ERROR"),
        ({"type": "jump"}, "UNKNOWN_TYPE"),
        ({"data": {}}, "VALIDATION_ERROR"),
        ({"type": "step", "data": {"txt": "up"}}, "VALIDATION_ERROR"),
        ({"type": "step", "data": 5}, "VALIDATION_ERROR"),
        ({"type": "reset", "data": {"seed": -1}}, "VALIDATION_ERROR"),
        ({"type": "reset", "data": {"split": "dev"}}, "VALIDATION_ERROR"),
        ({"type": "step", "data": {"text": "up"}}, "EXECUTION_ERROR"),
    ],
)
async def test_errors_leave_the_socket_open(api, message, code):
    async with api.session.ws_connect(api.base + "/ws") as socket:
        error = await exchange(socket, message)
        assert (error["type"], error["data"]["code"]) == ("error", code)
        assert error["data"]["message"]
        assert (await exchange(socket, {"type": "reset"}))["type"] == "observation"


async def test_binary_frames_are_read_too(api):
    async with api.session.ws_connect(api.base + "/ws") as socket:
        await socket.send_bytes(b'{"type":"state","data":null}')
        assert (await socket.receive_json(timeout=10))["type"] == "state"


async def test_attaching_to_a_session(api):
    session = await api.open(split="train", index=3)
    async with api.session.ws_connect(f"{api.base}/ws?session_id={session}") as socket:
        assert (await exchange(socket, {"type": "state"}))["data"]["task_id"] == "sokoban/train/3"
        await exchange(socket, {"type": "step", "data": {"text": "still"}})
        assert (await api("GET", f"/state?session_id={session}"))[1]["step_count"] == 1
        async with api.session.ws_connect(f"{api.base}/ws?session_id={session}") as second:
            refusal = await second.receive_json(timeout=10)
            assert (refusal["data"]["code"], "already" in refusal["data"]["message"]) == ("SESSION_ERROR", True)


async def test_an_unknown_session_closes_the_socket(api):
    async with api.session.ws_connect(f"{api.base}/ws?session_id=nobody") as socket:
        refusal = await socket.receive_json(timeout=10)
        assert (refusal["type"], refusal["data"]["code"]) == ("error", "SESSION_ERROR")
        assert (await socket.receive(timeout=10)).type == aiohttp.WSMsgType.CLOSE


async def test_capacity_is_told_before_the_socket_closes(api):
    await api("POST", "/v1/sessions", {"count": 16})
    async with api.session.ws_connect(api.base + "/ws") as socket:
        refusal = await socket.receive_json(timeout=10)
        assert refusal["data"]["code"] == "CAPACITY_REACHED"
        assert (refusal["data"]["active_sessions"], refusal["data"]["max_sessions"]) == (16, 16)
        assert (await socket.receive(timeout=10)).type == aiohttp.WSMsgType.CLOSE


async def test_closing_the_socket_is_closing_the_session_that_was_opened_for_it(api):
    async with api.session.ws_connect(api.base + "/ws") as socket:
        assert (await exchange(socket, {"type": "reset"}))["type"] == "observation"
    deadline = time.monotonic() + 10
    while (await api("GET", "/v1/capacity"))[1]["active_sessions"]:
        assert time.monotonic() < deadline, "the session outlived its socket"


async def test_closing_the_socket_leaves_a_session_that_was_there_before(api):
    session = await api.open(index=1)
    for _ in range(2):
        async with api.session.ws_connect(f"{api.base}/ws?session_id={session}") as socket:
            assert (await exchange(socket, {"type": "state"}))["data"]["session_id"] == session
    assert (await api("GET", f"/state?session_id={session}"))[1]["session_id"] == session


async def lose(api, address):
    """Open a socket, start an episode, and break the connection without a close frame. Returns the session's id."""
    socket = await api.session.ws_connect(address + "/ws")
    session = (await exchange(socket, {"type": "state"}))["data"]["session_id"]
    await exchange(socket, {"type": "reset", "data": {"index": 5}})
    await exchange(socket, {"type": "step", "data": {"text": "still"}})
    socket._response.connection.transport.abort()
    await socket.close()
    return session


async def test_a_lost_socket_can_be_taken_up_again(api):
    session = await lose(api, api.base)
    deadline = time.monotonic() + 10
    while True:
        async with api.session.ws_connect(f"{api.base}/ws?session_id={session}") as socket:
            reply = await exchange(socket, {"type": "state"})
            if reply["type"] == "state":
                break
        assert time.monotonic() < deadline, reply
    assert (reply["data"]["task_id"], reply["data"]["step_count"]) == ("sokoban/train/5", 1)


async def test_lost_sockets_do_not_leak_places(api, tmp_path, start_server):
    with start_server(tmp_path, capacity=2, grace=0.3) as (address, _):
        for _ in range(2):
            await lose(api, address)
        deadline = time.monotonic() + 10
        while True:
            async with api.session.get(address + "/v1/capacity") as reply:
                if (await reply.json())["available"] == 2:
                    break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
