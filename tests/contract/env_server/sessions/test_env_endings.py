"""How sessions end that nobody ends: idle ones, those of peers that vanished, and those of a server that stops."""

import asyncio
import signal
import time

import aiohttp
import psutil
import pytest


async def until(condition, what, seconds=15):
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.02)


async def get(session, url):
    async with session.get(url) as reply:
        return reply.status, await reply.json()


async def post(session, url, body):
    async with session.post(url, json=body) as reply:
        return reply.status, await reply.json()


async def half_open(address):
    """A WebSocket whose peer neither reads nor writes any more, and never closes."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    writer.write(f"GET /ws HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n{key}\r\n\r\n".encode())
    assert b"101" in await reader.readline()
    reader._transport.pause_reading()
    return writer


@pytest.mark.slow  # eleven seconds: waits for time-outs; test_env_hardening.py has a short one
async def test_peers_that_vanish_hold_neither_places_nor_sockets(tmp_path, start_server):
    with start_server(tmp_path, capacity=4, ttl=0.5) as (address, process):
        async with aiohttp.ClientSession() as session:
            server = psutil.Process(process.pid)

            async def empty():
                return (await get(session, address + "/v1/capacity"))[1]["active_sessions"] == 0

            await get(session, address + "/health")
            silent = [await half_open(address) for _ in range(4)]
            assert (await post(session, address + "/v1/sessions", {}))[0] == 503
            await until(empty, "the places of silent peers")
            assert (await post(session, address + "/v1/sessions", {"count": 4}))[0] == 200

            async def forgotten():
                return len(server.net_connections()) <= 2  # the listening one, and ours

            await until(forgotten, "the sockets of silent peers", seconds=30)
            for writer in silent:
                writer.close()


async def test_an_idle_player_is_told(tmp_path, start_server):
    with start_server(tmp_path, ttl=0.3) as (address, _):
        async with aiohttp.ClientSession() as session, session.ws_connect(address + "/ws") as socket:
            farewell = await socket.receive_json(timeout=10)
            assert farewell["data"]["code"] == "SESSION_ERROR"
            assert "idle" in farewell["data"]["message"]
            closing = await socket.receive(timeout=10)
            assert (closing.type, closing.data) == (aiohttp.WSMsgType.CLOSE, 1001)


async def test_a_stop_lets_sessions_end_and_takes_no_new_ones(tmp_path, start_server):
    with start_server(tmp_path, drain=60) as (address, process):
        async with aiohttp.ClientSession() as session, session.ws_connect(address + "/ws") as socket:
            await socket.send_json({"type": "reset", "data": {"seed": 1}})
            assert (await socket.receive_json(timeout=10))["type"] == "observation"
            process.send_signal(signal.SIGTERM)

            async def draining():
                return (await get(session, address + "/ready"))[0] == 503

            await until(draining, "/ready to turn")
            status, refusal = await post(session, address + "/v1/sessions", {})
            assert (status, refusal["code"], refusal["retryable"]) == (503, "draining", True)
            await socket.send_json({"type": "step", "data": {"text": "still"}})
            assert (await socket.receive_json(timeout=10))["data"]["observation"]["step"] == 1
            await socket.send_json({"type": "close"})
        began = time.monotonic()
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert time.monotonic() - began < 15


async def test_who_is_still_there_when_a_stop_ends_is_told(tmp_path, start_server):
    with start_server(tmp_path, drain=0.3) as (address, process):
        async with aiohttp.ClientSession() as session, session.ws_connect(address + "/ws") as socket:
            await socket.send_json({"type": "state"})
            await socket.receive_json(timeout=10)
            process.send_signal(signal.SIGTERM)
            farewell = await socket.receive_json(timeout=10)
            assert (farewell["type"], farewell["data"]["code"]) == ("error", "SESSION_ERROR")
            assert "shutting down" in farewell["data"]["message"]
            assert (await socket.receive(timeout=10)).type == aiohttp.WSMsgType.CLOSE
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert "Traceback" not in (tmp_path / "stderr.log").read_text()
