"""JSON-RPC over HTTP and over the socket, and OpenEnv's task routes."""

import time

import pytest


async def rpc(api, method, params=None, number=1):
    body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}}
    status, reply = await api("POST", "/mcp", body)
    assert (status, reply["jsonrpc"], reply["id"]) == (200, "2.0", number)
    return reply


def is_error(reply, code, words):
    assert "result" not in reply
    assert reply["error"]["code"] == code, reply
    assert words in reply["error"]["message"]
    return True


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("{}", -32600),
        ("[]", -32600),
        ('{"jsonrpc":"1.0","method":"tools/list"}', -32600),
        ('{"jsonrpc":"2.0","method":"tools/list","params":[1]}', -32600),
        ("{no json", -32700),
        ("", -32700),
        ('{"jsonrpc":"2.0","id":7,"method":"ping","nonsense":1}', -32600),
        ('{"jsonrpc":"2.0","id":7,"method":5}', -32600),
        ('{"jsonrpc":"1.0","id":7,"method":"ping","params":[]}', -32600),
        ('{"jsonrpc":"2.0","id":7,"method":"tools/burn"}', -32601),
        ('{"jsonrpc":"2.0","id":7,"method":"tools/call"}', -32602),
        ('{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"act","arguments":[]}}', -32602),
        ('{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"act","arguments":{"text":1}}}', -32602),
        ('{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"session_id":5}}', -32602),
        ('{"jsonrpc":"2.0","id":7,"method":"openenv/session/close"}', -32602),
    ],
)
async def test_whatever_is_sent_is_answered_in_the_protocols_form(api, raw, code):
    status, reply = await api("POST", "/mcp", raw=raw)
    assert (status, reply["jsonrpc"], reply["error"]["code"]) == (200, "2.0", code)
    assert reply["id"] == (7 if '"id":7' in raw else None)


async def test_an_episode_by_tools(api):
    session = (await rpc(api, "openenv/session/create"))["result"]["session_id"]
    act = {"name": "act", "arguments": {"text": "still"}, "session_id": session}
    assert is_error(await rpc(api, "tools/call", act), -32000, "begin an episode with a reset")
    start = {"name": "start_episode", "arguments": {"split": "train", "index": 3}, "session_id": session}
    first = (await rpc(api, "tools/call", start))["result"]
    assert first["data"] == first["structuredContent"]
    assert first["content"] == [{"type": "text", "text": first["data"]["observation"]["prompt"]}]
    stepped = (await rpc(api, "tools/call", act, number="a"))["result"]["data"]
    assert (stepped["reward"], stepped["observation"]["step"]) == (-0.1, 1)
    assert (await rpc(api, "openenv/session/close", {"session_id": session}))["result"]["closed"] is True
    assert is_error(await rpc(api, "tools/call", act), -32602, "no session")
    assert is_error(await rpc(api, "openenv/session/close", {"session_id": session}), -32602, "no session")


async def test_sessions_by_rpc_count_against_the_capacity(api):
    await api("POST", "/v1/sessions", {"count": 16})
    reply = await rpc(api, "openenv/session/create")
    assert is_error(reply, -32000, "0 of 16 free")
    assert reply["error"]["data"]["retryable"] is True
    assert (reply["error"]["data"]["active_sessions"], reply["error"]["data"]["max_sessions"]) == (16, 16)


async def test_a_socket_speaks_it_too_and_its_session_ends_when_told(api):
    session = (await rpc(api, "openenv/session/create"))["result"]["session_id"]
    async with api.session.ws_connect(f"{api.base}/ws?session_id={session}") as socket:

        async def ask(method, params):
            data = {"jsonrpc": "2.0", "id": 4, "method": method, "params": params}
            await socket.send_json({"type": "mcp", "data": data})
            answer = await socket.receive_json(timeout=10)
            assert (answer["type"], answer["data"]["id"]) == ("mcp", 4)
            return answer["data"]

        started = await ask("tools/call", {"name": "start_episode", "arguments": {"index": 2}})
        assert started["result"]["data"]["metadata"]["task_id"] == "sokoban/train/2"
        assert (await ask("openenv/session/create", {}))["result"] == {"session_id": session}
        assert is_error(await ask("openenv/session/close", {"session_id": session}), -32600, "belongs to this socket")
        closing = (await rpc(api, "openenv/session/close", {"session_id": session}))["result"]
        assert closing == {"session_id": session, "closed": False, "closing": True}
        assert (await ask("tools/list", {}))["result"]["tools"]
    deadline = time.monotonic() + 10
    while (await api("GET", "/v1/capacity"))[1]["active_sessions"]:
        assert time.monotonic() < deadline, "the session outlived its socket"


async def test_task_routes(api):
    assert await api("GET", "/list_environments") == (200, ["sokoban"])
    splits = (await api("GET", "/Sokoban/splits"))[1]
    assert splits == [{"name": name, "type": name} for name in ("train", "validation", "test")]
    assert await api("POST", "/sokoban/num_tasks", {"split": "test"}) == (200, {"num_tasks": 1024})
    assert await api("POST", "/sokoban/num_tasks", {"split": "train"}) == (200, {"num_tasks": 2**31 - 1})
    listed = (await api("POST", "/sokoban/tasks", {"split": "validation"}))[1]
    assert (len(listed["tasks"]), listed["env_name"]) == (1024, "sokoban")
    assert listed["tasks"][7] == {"task_id": "sokoban/validation/7", "split": "validation", "index": 7}
    assert (await api("POST", "/sokoban/task", {"split": "validation", "index": 7}))[1]["task"] == listed["tasks"][7]
    some = (await api("POST", "/sokoban/task_range", {"split": "validation", "start": 5, "stop": 9}))[1]
    assert some == {"tasks": listed["tasks"][5:9]}
    rest = (await api("POST", "/sokoban/task_range", {"split": "validation", "start": 1020}))[1]
    assert rest["tasks"] == listed["tasks"][1020:]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/sokobam/num_tasks", {"split": "test"}, 404, "unknown_environment"),
        ("/sokoban/num_tasks", {"split": "tests"}, 422, "invalid_request"),
        ("/sokoban/tasks", {"split": "train"}, 422, "invalid_request"),
        ("/sokoban/tasks", {}, 422, "invalid_request"),
        ("/sokoban/task", {"split": "test", "index": 1024}, 400, "invalid_index"),
        ("/sokoban/task", {"split": "test", "index": -1}, 400, "invalid_index"),
        ("/sokoban/task_range", {"split": "test", "start": 9, "stop": 5}, 400, "invalid_index"),
        ("/sokoban/task_range", {"split": "test", "start": 0, "stop": 1025}, 400, "invalid_index"),
        ("/sokoban/task_range", {"split": "train", "start": 0, "stop": 10_001}, 422, "invalid_request"),
    ],
)
async def test_task_routes_say_what_is_wrong(api, path, body, status, code):
    found, reply = await api("POST", path, body)
    assert (found, reply["code"]) == (status, code)
    assert reply["message"]
