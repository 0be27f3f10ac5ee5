"""Bearer tokens, and limits for each client."""

import aiohttp
import pytest

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import AtCapacity, Refused

TOKEN = "a secret of this test"


@pytest.fixture
def guarded(tmp_path, monkeypatch, start_server):
    monkeypatch.setenv("ARLARENA_ENVIRONMENT_TOKEN", TOKEN)
    with start_server(tmp_path) as (address, _):
        yield address


async def test_a_token_is_asked_for_everywhere_but_at_the_probes(guarded):
    async with aiohttp.ClientSession() as session:
        for path in ("/health", "/ready"):
            async with session.get(guarded + path) as reply:
                assert reply.status == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            for method, path in (("GET", "/v1/info"), ("POST", "/v1/sessions"), ("POST", "/mcp"), ("GET", "/metrics")):
                async with session.request(method, guarded + path, json={}, headers=headers) as reply:
                    assert (reply.status, (await reply.json())["code"]) == (401, "unauthorized")
            async with session.ws_connect(guarded + "/ws", headers=headers) as socket:
                refusal = await socket.receive_json(timeout=10)
                assert refusal["data"]["code"] == "SESSION_ERROR"
                assert "Authorization" in refusal["data"]["message"]
                assert (await socket.receive(timeout=10)).type == aiohttp.WSMsgType.CLOSE
        right = {"Authorization": f"Bearer {TOKEN}"}
        async with session.get(guarded + "/v1/capacity", headers=right) as reply:
            assert (await reply.json())["active_sessions"] == 0
        async with session.ws_connect(guarded + "/ws", headers=right) as socket:
            await socket.send_json({"type": "reset"})
            assert (await socket.receive_json(timeout=10))["type"] == "observation"


async def test_the_client_brings_its_token(guarded):
    async with EnvironmentClient(guarded, token=TOKEN) as client:
        (session,) = await client.open(1)
        assert not (await session.reset(split="train", index=1)).done
        await session.close()
    async with EnvironmentClient(guarded) as client:
        with pytest.raises(Refused, match="unauthorized"):
            await client.open(1)


async def test_one_client_cannot_take_every_place(tmp_path, monkeypatch, start_server):
    monkeypatch.setenv("ARLARENA_ENVIRONMENT_MAX_SESSIONS_PER_CLIENT", "3")
    with start_server(tmp_path) as (address, _):
        async with EnvironmentClient(address, retries=0) as client:
            opened = await client.open(2)
            with pytest.raises(AtCapacity, match="has 2 sessions and requests 2 more"):
                await client.open(2)
            await opened[0].close()
            assert len(await client.open(2)) == 2
