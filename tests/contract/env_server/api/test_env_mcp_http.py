"""MCP's Streamable HTTP transport: the handshake and the session in a header, by the messages of the specification and
by the official client.
"""

import json
import subprocess
from pathlib import Path

import aiohttp
import pytest
from support.environments.environment_support import environment_server

ROOT = Path(__file__).resolve().parents[4]
PYTHON = ROOT / ".venv-openenv" / "bin" / "python"
JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


async def send(client, url, message, method="POST", **headers):
    """Status, headers and body of the response to one message."""
    data = json.dumps(message) if message else None
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.request(method, f"{url}/mcp", data=data, headers=JSON | named) as reply:
        text = await reply.text()
        return reply.status, reply.headers, json.loads(text) if text else None


def request(method, params=None, number=1):
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}}


def hello(version):
    client = {"name": "a test", "version": "1"}
    return request("initialize", {"protocolVersion": version, "capabilities": {}, "clientInfo": client})


def call(name, **arguments):
    return request("tools/call", {"name": name, "arguments": arguments})


async def initialized(client, url):
    """The id of the session of a client that has shaken hands."""
    status, headers, _ = await send(client, url, hello("2025-06-18"))
    assert status == 200
    session = headers["Mcp-Session-Id"]
    done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    status, _, body = await send(client, url, done, Mcp_Session_Id=session, Mcp_Protocol_Version="2025-06-18")
    assert (status, body) == (202, None)
    return session


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", "2025-11-25"),
        ("2099-01-01", "2025-11-25"),
    ],
)
async def test_initialize_agrees_on_a_version_and_opens_a_session(api, asked, agreed):
    status, headers, body = await send(api.session, api.base, hello(asked))
    result = body["result"]
    assert (status, result["protocolVersion"], result["capabilities"]) == (200, agreed, {"tools": {}})
    assert result["serverInfo"]["name"] == "arlarena-sokoban"
    assert result["serverInfo"]["version"] == (await api("GET", "/v1/info"))[1]["version"]
    listed = (await api("GET", "/v1/sessions"))[1]["sessions"]
    assert [session["session_id"] for session in listed] == [headers["Mcp-Session-Id"]]


async def test_an_episode_by_the_header_and_its_end(api):
    session = await initialized(api.session, api.base)

    async def ask(message):
        return (await send(api.session, api.base, message, Mcp_Session_Id=session))[2]

    assert await ask(request("ping", number="p")) == {"jsonrpc": "2.0", "id": "p", "result": {}}
    assert "begin an episode with a reset" in (await ask(call("act", text="up")))["error"]["message"]
    first = (await ask(call("start_episode", index=5)))["result"]
    assert first["structuredContent"]["metadata"]["task_id"] == "sokoban/train/5"
    assert len(first["content"]) == 1
    for step in range(1, 16):
        result = (await ask(call("act", text="still")))["result"]
        assert result["structuredContent"]["observation"]["step"] == step
    assert result["content"][1]["text"].startswith("The episode is over. Its score is 0 of 1.")
    status, _, _ = await send(api.session, api.base, None, "DELETE", Mcp_Session_Id=session)
    assert status == 204
    assert (await api("GET", "/v1/capacity"))[1]["active_sessions"] == 0
    status, _, body = await send(api.session, api.base, call("act", text="up"), Mcp_Session_Id=session)
    assert (status, "no session" in body["error"]["message"]) == (404, True)
    assert (await send(api.session, api.base, None, "DELETE", Mcp_Session_Id=session))[0] == 404


@pytest.mark.parametrize("tool", [call("act", text="up"), call("start_episode", index=1)])
async def test_a_tool_without_a_session_is_an_error_that_says_how_to_get_one(api, tool):
    status, _, body = await send(api.session, api.base, tool)
    assert (status, body["error"]["code"]) == (200, -32602)
    for words in ("'initialize'", "Mcp-Session-Id", "'openenv/session/create'", "session_id of its reply in params"):
        assert words in body["error"]["message"]
    assert (await api("GET", "/v1/capacity"))[1]["active_sessions"] == 0


@pytest.mark.parametrize("params", [{}, {"protocolVersion": 3}, {"protocolVersion": ""}])
async def test_a_handshake_without_a_version_opens_nothing(api, params):
    _, headers, body = await send(api.session, api.base, request("initialize", params))
    assert (body["error"]["code"], "protocolVersion" in body["error"]["message"]) == (-32602, True)
    assert "Mcp-Session-Id" not in headers
    assert (await api("GET", "/v1/capacity"))[1]["active_sessions"] == 0


async def test_a_full_server_says_so_at_the_handshake(api):
    await api("POST", "/v1/sessions", {"count": 16})
    _, headers, body = await send(api.session, api.base, hello("2025-11-25"))
    assert (body["error"]["code"], "0 of 16 free" in body["error"]["message"]) == (-32000, True)
    assert "Mcp-Session-Id" not in headers


async def test_an_unknown_version_in_the_header_is_refused_with_those_that_are_known(api):
    status, _, body = await send(api.session, api.base, request("ping"), Mcp_Protocol_Version="1999-01-01")
    assert (status, "known: 2025-11-25, 2025-06-18" in body["error"]["message"]) == (400, True)


async def test_there_is_no_stream_and_a_delete_names_its_session(api):
    status, headers, _ = await send(api.session, api.base, None, "GET")
    assert (status, headers["Allow"]) == (405, "DELETE, POST")
    status, _, body = await send(api.session, api.base, None, "DELETE")
    assert (status, "mcp-session-id" in body["message"]) == (422, True)


@pytest.mark.parametrize(
    ("method", "mention"),
    [("tool/list", "did you mean 'tools/list'?"), ("resources/list", "known: initialize, ping, tools/list")],
)
async def test_an_unknown_method_names_those_that_exist(api, method, mention):
    _, _, body = await send(api.session, api.base, request(method))
    assert (body["error"]["code"], mention in body["error"]["message"]) == (-32601, True)


async def test_the_session_of_a_handshake_is_found_from_every_worker(tmp_path):
    with environment_server(tmp_path, arguments=("--workers", "2")) as (url, _):
        sessions = []
        for _ in range(8):  # a connection each: the kernel deals them among the workers
            async with aiohttp.ClientSession() as client:
                sessions.append(await initialized(client, url))
        for session in sessions:
            async with aiohttp.ClientSession() as client:
                _, _, body = await send(client, url, call("start_episode", index=2), Mcp_Session_Id=session)
                assert body["result"]["data"]["metadata"]["task_id"] == "sokoban/train/2"
        for session in sessions:
            async with aiohttp.ClientSession() as client:
                assert (await send(client, url, None, "DELETE", Mcp_Session_Id=session))[0] == 204
        async with aiohttp.ClientSession() as client:
            for _ in range(16):  # all of both workers, whichever of them is asked
                await initialized(client, url)


@pytest.mark.skipif(not PYTHON.exists(), reason="THE MCP CLIENT IS NOT INSTALLED: `make setup EXTRA=openenv`")
async def test_the_official_client_plays_an_episode(api):
    driver = [PYTHON, ROOT / "tests" / "support" / "environments" / "mcp_driver.py", f"{api.base}/mcp"]
    done = subprocess.run(driver, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["version"], found["server"]) == ("2025-11-25", "arlarena-sokoban")
    assert (found["tools"], found["task"], found["steps"]) == (["start_episode", "act"], "sokoban/train/3", 15)
    assert found["prompt"]
    assert "The episode is over" in found["last"]
    assert "unknown field `txt`; known: text, metadata" in found["error"]
    assert (await api("GET", "/v1/capacity"))[1]["active_sessions"] == 0, "it has ended its session"
