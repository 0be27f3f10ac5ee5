"""Responses that are too large, compressed, or redirects: an error names the request, and memory does not grow."""

import asyncio
import gzip
import json
import resource

import pytest
from aiohttp import web

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import ProtocolError
from arlarena.client.policy import PolicyClient
from arlarena.client.transport import HttpTransport, Timeouts
from arlarena.proto.trajectory import Sampling


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


async def endless(request):
    reply = web.StreamResponse()
    await reply.prepare(request)
    while request.transport is not None:
        await reply.write(bytes(1 << 16))
    return reply


async def test_compressed_responses_are_refused(serve):
    received_by, body = [], gzip.compress(bytes(300 << 20), 1)

    async def handler(request):
        received_by.append(request.headers.get("accept-encoding"))
        return web.Response(body=body, headers={"content-encoding": "gzip"})

    url, before = await serve(handler), peak_mib()
    async with EnvironmentClient(url) as environments, PolicyClient(url) as policy:
        for call in (environments.info, policy.version, policy.model):
            with pytest.raises(ProtocolError, match="encoding"):
                await call()
        with pytest.raises(ProtocolError, match="encoding"):
            await environments.open(1)
        with pytest.raises(ProtocolError, match="encoding"):
            await policy.chat([{"role": "user", "content": "x"}], Sampling(max_tokens=1))
    assert set(received_by) == {"identity"}
    assert peak_mib() - before < 150


async def test_a_too_large_response_is_refused(serve):
    url = await serve(endless)
    async with HttpTransport(url, Timeouts(request_s=20), max_answer_bytes=1 << 20) as transport:
        with pytest.raises(ProtocolError, match=r"/x.*more than 1048576 bytes"):
            await transport.request("GET", "/x")
        with pytest.raises(ProtocolError, match="more than 1000 bytes"):
            await transport.request("GET", "/x", max_answer_bytes=1000)
    async with EnvironmentClient(url, Timeouts(request_s=20)) as environments:
        with pytest.raises(ProtocolError, match=r"/v1/info.*more than 1048576 bytes"):
            await environments.info()
    with pytest.raises(ValueError, match="max_answer_bytes"):
        HttpTransport(url, Timeouts(), max_answer_bytes=0)


@pytest.mark.parametrize("origin", ["same", "other"])  # aiohttp does not send a token to other origins
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(serve, status, origin):
    reached = []

    async def elsewhere(request):
        reached.append(dict(request.headers))
        return web.json_response({})

    other = await serve(elsewhere)

    async def handler(request):
        if request.path.startswith("/elsewhere"):
            return await elsewhere(request)
        target = other if origin == "other" else f"http://{request.host}"
        return web.Response(status=status, headers={"location": f"{target}/elsewhere{request.path}"})

    url = await serve(handler)
    async with EnvironmentClient(url, token="secret") as environments, PolicyClient(url, token="secret") as policy:
        for call in (environments.info, policy.version):
            with pytest.raises(ProtocolError, match="redirects to"):
                await call()
        with pytest.raises(ProtocolError, match="redirects to"):
            await environments.open(1)
    assert reached == []


async def test_a_batch_of_long_replies_is_split_into_requests(serve):
    sizes = []

    async def handler(request):
        if request.path == "/v1/sessions":
            return web.json_response({"sessions": [{"session_id": f"s{n}", "lease_expires_at": 0} for n in range(9)]})
        raw = b"".join([chunk async for chunk in request.content.iter_any()])
        sizes.append(len(raw))
        results = [{"session_id": item["session_id"], "ok": False} for item in json.loads(raw)["items"]]
        return web.json_response({"results": results})

    async with EnvironmentClient(await serve(handler), retries=0) as environments:
        sessions = await environments.open(9)
        texts = ["x" * 200_000] * 8 + ["\x01" * (1 << 18)]
        result = await asyncio.gather(
            *(s.step(t) for s, t in zip(sessions, texts, strict=True)), return_exceptions=True
        )
    assert len(result) == 9
    assert [f"session s{n} " in str(error) for n, error in enumerate(result)] == [True] * 9
    assert len(sizes) > 1
    assert max(sizes) <= 4 << 20
