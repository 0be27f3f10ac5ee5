"""Sessions belong to the token that opened them: to everybody else they do not exist."""

import asyncio
import json
import os

import aiohttp
import pytest
from support.environments.environment_support import environment_server

ALICE, BOB, NAMELESS = "alice-secret-1", "bob-secret-2", "nameless-secret-3"
TOKENS = f"# clients\nalice:{ALICE}\nalice:alice-secret-new\nbob:{BOB}\n{NAMELESS}\n"
FRAMES = """
[environment.options]
observation = "image"
min_moves = 3
"""


@pytest.fixture(scope="module", params=["1", "2"], ids=["one process", "two workers"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tenants")
    (folder / "tokens").write_text(TOKENS)
    variables = {
        "ARLARENA_ENVIRONMENT_TOKENS_FILE": str(folder / "tokens"),
        "ARLARENA_ENVIRONMENT_MAX_SESSIONS_PER_CLIENT": "12",
    }
    with environment_server(
        folder, extra=FRAMES, capacity=64, arguments=("--workers", request.param), variables=variables
    ) as (address, _):
        yield address, folder


@pytest.fixture
def address(server):
    return server[0]


async def ask(address, token, method, path, body=None, **headers):
    """(status, body, headers) on a connection of its own, so that any worker may answer."""
    sent = {"Authorization": f"Bearer {token}", **headers}
    async with (
        aiohttp.ClientSession(headers=sent, timeout=aiohttp.ClientTimeout(total=30)) as session,
        session.request(method, address + path, json=body) as reply,
    ):
        raw = await reply.read()
        return reply.status, json.loads(raw) if reply.content_type == "application/json" else raw, reply.headers


async def opened(address, token, count=1, index=3):
    status, body, _ = await ask(address, token, "POST", "/v1/sessions", {"count": count, "reset": [{"index": index}]})
    assert status == 200, body
    return body["sessions"]


@pytest.fixture(autouse=True)
async def close_all(address):
    yield
    for token in (ALICE, BOB, NAMELESS):
        for one in (await ask(address, token, "GET", "/v1/sessions"))[1]["sessions"]:
            assert (await ask(address, token, "DELETE", f"/v1/sessions/{one['session_id']}"))[0] == 204


def requests_about(name, snapshot):
    """Every request that names a session or a snapshot."""
    yield "GET", f"/state?session_id={name}", None
    yield "POST", "/reset", {"session_id": name}
    yield "POST", "/step", {"session_id": name, "action": {"text": "up"}}
    yield "GET", f"/v1/sessions/{name}", None
    yield "DELETE", f"/v1/sessions/{name}", None
    yield "POST", f"/v1/sessions/{name}/heartbeat", None
    yield "POST", f"/v1/sessions/{name}/fork", {}
    yield "POST", f"/v1/sessions/{name}/snapshot", None
    yield "GET", f"/v1/sessions/{name}/expert", None
    yield "POST", f"/v1/snapshots/{snapshot}/restore", {}
    yield "DELETE", f"/v1/snapshots/{snapshot}", None
    for op in ("reset", "step", "state", "close"):
        item = {"session_id": name, "op": op} | ({"action": {"text": "up"}} if op == "step" else {})
        yield "POST", "/v1/batch", {"items": [item]}
    for params in ({"name": "act", "arguments": {"text": "up"}}, {"name": "start_episode"}):
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**params, "session_id": name}}
        yield "POST", "/mcp", call
    close = {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/close", "params": {"session_id": name}}
    yield "POST", "/mcp", close


def same(answer, name, snapshot, other_name, other_snapshot):
    """An answer with other names in it."""
    status, body, _ = answer
    return status, json.dumps(body).replace(name, other_name).replace(snapshot, other_snapshot)


async def test_another_tokens_session_answers_as_one_that_does_not_exist(address):
    for owner in (ALICE, NAMELESS):
        (mine,) = await opened(address, owner)
        name = mine["session_id"]
        snapshot = (await ask(address, owner, "POST", f"/v1/sessions/{name}/snapshot"))[1]["snapshot_id"]
        before = (await ask(address, owner, "GET", f"/state?session_id={name}"))[1]
        gone, gone_snapshot = (one[:-8] + "00000000" for one in (name, snapshot))
        asked = zip(requests_about(name, snapshot), requests_about(gone, gone_snapshot), strict=True)
        for theirs, absent in asked:
            found, missing = [await ask(address, BOB, *one) for one in (theirs, absent)]
            assert same(found, name, snapshot, gone, gone_snapshot) == same(missing, "-", "-", "-", "-"), theirs
        for header in ({"Mcp-Session-Id": name}, {"mcp-session-id": gone}):
            listed = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            assert (await ask(address, BOB, "POST", "/mcp", listed, **header))[0] == 404
            assert (await ask(address, BOB, "DELETE", "/mcp", **header))[0] == 404
        assert (await ask(address, owner, "GET", f"/state?session_id={name}"))[1] == before
        restored = await ask(address, owner, "POST", f"/v1/snapshots/{snapshot}/restore", {"session_id": name})
        assert restored[0] == 200


async def test_a_socket_attaches_to_its_tokens_sessions_alone(address):
    (mine,) = await opened(address, ALICE)
    for token, known in ((BOB, False), (ALICE, True)):
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
            session.ws_connect(f"{address}/ws?session_id={mine['session_id']}") as socket,
        ):
            if known:
                await socket.send_json({"type": "step", "data": {"text": "up"}})
                assert (await socket.receive_json(timeout=20))["type"] == "observation"
                listed = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
                await socket.send_json({"type": "mcp", "data": listed})
                assert "result" in (await socket.receive_json(timeout=20))["data"]
            else:
                refused = (await socket.receive_json(timeout=20))["data"]
                assert refused["message"].startswith(f"no session {mine['session_id']!r}")


async def test_a_list_shows_ones_own_sessions_and_all_tokens_of_a_name_share_them(address):
    names = {one["session_id"] for one in await opened(address, ALICE, 4)}
    await opened(address, BOB, 2)
    (twin,) = (await ask(address, ALICE, "POST", f"/v1/sessions/{min(names)}/fork", {}))[1]["sessions"]
    names.add(twin["session_id"])
    for token in (ALICE, "alice-secret-new"):
        shown = (await ask(address, token, "GET", "/v1/sessions"))[1]["sessions"]
        assert {one["session_id"] for one in shown} == names
    assert len((await ask(address, BOB, "GET", "/v1/sessions"))[1]["sessions"]) == 2
    assert (await ask(address, NAMELESS, "GET", "/v1/sessions"))[1]["sessions"] == []


async def test_a_frame_is_shown_to_those_alone_who_have_seen_it(address):
    (mine,) = await opened(address, ALICE, index=8)
    (image,) = mine["result"]["observation"]["images"]
    for _ in range(4):  # any worker may be asked
        status, png, headers = await ask(address, ALICE, "GET", image["url"])
        assert (status, png[:4]) == (200, b"\x89PNG")
        assert headers["Cache-Control"].startswith("private")
        assert (await ask(address, BOB, "GET", image["url"]))[0] == 404
    await opened(address, BOB, index=8)  # the same task, so the same picture
    assert (await ask(address, BOB, "GET", image["url"]))[0] == 200


async def test_the_limit_of_sessions_counts_for_each_token(address):
    limit = 12 if await workers(address) == 1 else 24  # of each process
    held = []
    for token in (ALICE, BOB):
        while (answer := await ask(address, token, "POST", "/v1/sessions", {}))[0] == 200 and len(held) < 100:
            held.append(token)
        assert (answer[0], answer[1]["code"]) == (429, "client_limit"), answer
        assert "secret" not in answer[1]["message"]
    assert all(held.count(token) <= limit for token in (ALICE, BOB))
    assert all(held.count(token) >= 12 for token in (ALICE, BOB))


async def workers(address):
    text = (await ask(address, ALICE, "GET", "/metrics"))[1].decode()
    return 2 if 'worker="1"' in text else 1


async def test_headers_of_hops_are_believed_from_fellow_workers_alone(address):
    (mine,) = await opened(address, ALICE)
    forged = {"X-ARLArena-Hop": "1", "X-ARLArena-Tenant": "alice", "X-ARLArena-Client": "somebody"}
    for _ in range(6):
        assert (await ask(address, "wrong", "GET", "/v1/sessions", **forged))[0] == 401
        assert (await ask(address, BOB, "GET", f"/v1/sessions/{mine['session_id']}", **forged))[0] == 404
        assert (await ask(address, BOB, "GET", "/v1/sessions", **forged))[1]["sessions"] == []


async def test_tokens_are_read_again_when_the_file_changes(server):
    address, folder = server
    assert (await ask(address, "new-secret-4", "GET", "/v1/info"))[0] == 401
    await replaced(folder / "tokens", TOKENS + "carol:new-secret-4\n")
    async with asyncio.timeout(20):
        while (await ask(address, "new-secret-4", "GET", "/v1/info"))[0] != 200:
            await asyncio.sleep(0.05)
    await replaced(folder / "tokens", "not one token a line\n")
    async with asyncio.timeout(20):
        while "tokens_not_read" not in (folder / "stderr.log").read_text():
            await asyncio.sleep(0.05)
    assert (await ask(address, ALICE, "GET", "/v1/info"))[0] == 200
    log = (folder / "stderr.log").read_text()
    assert not any(secret in log for secret in (ALICE, BOB, NAMELESS, "new-secret-4"))
    await replaced(folder / "tokens", TOKENS)


async def replaced(path, text):
    """Whole, as secrets are put into a container."""
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)
