"""Several workers behind one port: any of them is asked, and the one that holds the session answers."""

import asyncio
import contextlib
import json
import time

import aiohttp
import psutil
import pytest
from support.environments.environment_support import environment_server

WORKERS = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    with environment_server(folder, capacity=64, arguments=("--workers", str(WORKERS))) as (address, process):
        yield address, process


@pytest.fixture(scope="module")
def address(server):
    return server[0]


async def ask(address, method, path, body=None):
    """A request on a connection of its own, so that the kernel chooses a worker anew."""
    async with aiohttp.ClientSession() as session, session.request(method, address + path, json=body) as reply:
        text = await reply.text()
        return reply.status, json.loads(text) if reply.content_type == "application/json" else text


@contextlib.asynccontextmanager
async def attached(address, name, headers=None):
    """A socket of a session, on a connection of its own."""
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(f"{address}/ws?session_id={name}") as socket,
    ):
        yield socket


async def one_of_each(address):
    """A session on each worker, by the shard in its id."""
    found, others = {}, []
    for _ in range(200):
        _, opened = await ask(address, "POST", "/v1/sessions", {"reset": [{"index": 5}]})
        name = opened["sessions"][0]["session_id"]
        shard = name.split("-")[0]
        others += [name] if shard in found else []
        found.setdefault(shard, name)
        if len(found) == WORKERS:
            break
    for name in others:
        await ask(address, "DELETE", f"/v1/sessions/{name}")
    assert sorted(found) == [f"0w{worker}" for worker in range(WORKERS)], "the kernel chose one worker 200 times"
    return list(found.values())


async def close(address, names):
    for name in names:
        await ask(address, "DELETE", f"/v1/sessions/{name}")
    assert (await ask(address, "GET", "/v1/capacity"))[1]["active_sessions"] == 0


async def test_every_route_finds_the_session_whichever_worker_is_asked(address):
    names = await one_of_each(address)
    for number in range(30):
        for name in names:
            step = {"session_id": name, "action": {"text": "still"}, "step_index": number % 15}
            if number % 15 == 0:
                assert (await ask(address, "POST", "/reset", {"session_id": name, "index": number}))[0] == 200
            status, seen = await ask(address, "POST", "/step", step)
            assert (status, seen["observation"]["step"]) == (200, number % 15 + 1)
            assert (await ask(address, "GET", f"/state?session_id={name}"))[1]["session_id"] == name
            assert (await ask(address, "GET", f"/v1/sessions/{name}"))[1]["session_id"] == name
            assert (await ask(address, "POST", f"/v1/sessions/{name}/heartbeat"))[1]["session_id"] == name
    for name in names:
        status, copies = await ask(address, "POST", f"/v1/sessions/{name}/fork", {"count": 2})
        assert (status, len(copies["sessions"])) == (200, 2)
        names = [*names, *(one["session_id"] for one in copies["sessions"])]
        _, kept = await ask(address, "POST", f"/v1/sessions/{name}/snapshot")
        for _ in range(4):
            restored = await ask(address, "POST", f"/v1/snapshots/{kept['snapshot_id']}/restore", {"session_id": name})
            assert (restored[0], restored[1]["session_id"]) == (200, name)
        call = {"name": "start_episode", "arguments": {"index": 2}, "session_id": name}
        rpc = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        for _ in range(4):
            assert "result" in (await ask(address, "POST", "/mcp", rpc))[1]
    await close(address, names)


async def test_batches_mix_sessions_of_all_workers_in_order(address):
    names = await one_of_each(address)
    for number in range(10):
        items = [
            {"session_id": name, "op": "step", "action": {"text": "still"}, "step_index": number, "request_id": str(i)}
            for i, name in enumerate(names)
        ]
        items.insert(1, {"session_id": "0w1-nobody", "op": "state"})
        items.insert(0, {"session_id": "nobody", "op": "state"})
        _, reply = await ask(address, "POST", "/v1/batch", {"items": items})
        results = reply["results"]
        assert [result["session_id"] for result in results] == [item["session_id"] for item in items]
        assert [result["ok"] for result in results] == [False, True, False, True]
        assert results[0]["error"]["code"] == results[2]["error"]["code"] == "unknown_session"
        assert [results[i]["observation"]["step"] for i in (1, 3)] == [number + 1] * 2
    await close(address, names)


# Slow a thousand times: seven seconds.
@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
async def test_sockets_reach_their_session_from_any_connection(address, count):
    names = await one_of_each(address)
    failures = []

    async def attach(number):
        name = names[number % len(names)]
        async with attached(address, name) as socket:
            await socket.send_json({"type": "state"})
            answer = await socket.receive_json(timeout=20)
            if answer["type"] != "state" or answer["data"]["session_id"] != name:
                failures.append(answer)

    for number in range(count):
        await attach(number)
        # A socket that was closed without OpenEnv's frame leaves its session to whoever comes next.
    assert not failures, failures[:3]
    await close(address, names)


async def test_an_episode_over_a_socket_that_is_passed_on(address):
    for name in await one_of_each(address):
        for _ in range(6):
            async with attached(address, name) as socket:
                await socket.send_json({"type": "reset", "data": {"index": 3}})
                first = await socket.receive_json(timeout=20)
                assert first["data"]["metadata"]["task_id"] == "sokoban/train/3"
                await socket.send_json({"type": "step", "data": {"text": "still"}})
                assert (await socket.receive_json(timeout=20))["data"]["observation"]["step"] == 1
                await socket.send_str("{")
                assert (await socket.receive_json(timeout=20))["data"]["code"] == "INVALID_JSON"
        async with attached(address, name) as socket:
            await socket.send_json({"type": "close"})
            closing = await socket.receive(timeout=20)
            assert (closing.type, closing.data) == (aiohttp.WSMsgType.CLOSE, 1000)
    assert (await ask(address, "GET", "/v1/capacity"))[1]["active_sessions"] == 0


async def test_capacity_is_that_of_all_workers(address):
    assert (await ask(address, "GET", "/v1/capacity"))[1]["max_sessions"] == 64
    body = {"count": 50, "reset": [{"index": number} for number in range(50)]}
    status, opened = await ask(address, "POST", "/v1/sessions", body)
    assert (status, len(opened["sessions"])) == (200, 50)
    assert [one["task_id"] for one in opened["sessions"]] == [f"sokoban/train/{number}" for number in range(50)]
    assert len({one["session_id"].split("-")[0] for one in opened["sessions"]}) == WORKERS
    status, refusal = await ask(address, "POST", "/v1/sessions", {"count": 15})
    assert (status, "14 of 64 free" in refusal["message"]) == (503, True)
    assert (await ask(address, "GET", "/v1/capacity"))[1]["available"] == 14
    assert (await ask(address, "POST", "/v1/sessions", {"count": 65}))[0] == 422
    assert len((await ask(address, "GET", "/v1/sessions"))[1]["sessions"]) == 50
    async with aiohttp.ClientSession() as session:  # one more session by socket, wherever there is room
        sockets = [await session.ws_connect(address + "/ws") for _ in range(14)]
        for socket in sockets:
            await socket.send_json({"type": "state"})
            assert (await socket.receive_json(timeout=20))["type"] == "state"
        async with session.ws_connect(address + "/ws") as socket:
            assert (await socket.receive_json(timeout=20))["data"]["code"] == "CAPACITY_REACHED"
        for socket in sockets:
            await socket.send_json({"type": "close"})
            await socket.receive(timeout=20)
            await socket.close()
    await close(address, [one["session_id"] for one in opened["sessions"]])


async def test_metrics_of_all_workers_come_together(address):
    text = (await ask(address, "GET", "/metrics"))[1]
    for worker in range(WORKERS):
        assert f'arlarena_env_sessions{{worker="{worker}"}}' in text


async def test_no_worker_is_a_way_around_the_token(tmp_path, monkeypatch):
    monkeypatch.setenv("ARLARENA_ENVIRONMENT_TOKEN", "secret")
    right = {"Authorization": "Bearer secret"}
    with environment_server(tmp_path, capacity=64, arguments=("--workers", "2")) as (address, _):
        body = {"count": 1, "reset": [{"index": 1}]}
        async with (
            aiohttp.ClientSession(headers=right) as session,
            session.post(address + "/v1/sessions", json=body) as reply,
        ):
            name = (await reply.json())["sessions"][0]["session_id"]
        for _ in range(20):
            assert (await ask(address, "GET", f"/state?session_id={name}"))[0] == 401
            async with attached(address, name) as socket:
                refusal = await socket.receive_json(timeout=20)
                assert (refusal["data"]["code"], "token" in refusal["data"]["message"]) == ("SESSION_ERROR", True)
            async with attached(address, name, right) as socket:
                await socket.send_json({"type": "state"})
                assert (await socket.receive_json(timeout=20))["data"]["session_id"] == name


async def test_a_worker_that_dies_is_started_again_and_the_others_go_on(tmp_path):
    with environment_server(tmp_path, capacity=64, arguments=("--workers", "2")) as (address, process):
        names = await one_of_each(address)
        workers = {
            child.cmdline()[child.cmdline().index("--worker") + 1]: child
            for child in psutil.Process(process.pid).children()
        }
        workers["1"].kill()
        lost, kept = sorted(names, key=lambda name: not name.startswith("0w1"))
        deadline = time.monotonic() + 30
        while (await ask(address, "GET", f"/state?session_id={lost}"))[1].get("code") != "unknown_session":
            assert time.monotonic() < deadline, "the dead worker did not come back"
            await asyncio.sleep(0.05)
        assert (await ask(address, "GET", f"/state?session_id={kept}"))[1]["session_id"] == kept
        assert len(await one_of_each(address)) == 2
        await ask(address, "DELETE", f"/v1/sessions/{kept}")
