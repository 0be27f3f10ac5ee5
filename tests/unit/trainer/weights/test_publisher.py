"""Permanent errors end a push at once; other errors are retried."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from arlarena.client.weights import PushError
from arlarena.proto.telemetry import Logger
from arlarena.trainer.weights.push import Publisher, is_permanent
from arlarena.trainer.weights.transports import SharedDirectory

VERSION = SimpleNamespace(version="run:0:abc", bytes=1)


async def push(status, retry_timeout_s):
    """Push to a server that responds with `status`. Returns the number of requests and the error."""
    requests = 0

    async def answer(_):
        nonlocal requests
        requests += 1
        return web.Response(status=status, text="told so")

    app = web.Application()
    app.add_routes([web.post("/{path:.*}", answer)])
    async with TestServer(app) as server:
        url = f"http://127.0.0.1:{server.port}"
        publisher = Publisher(
            [url], SharedDirectory(), token="t", retry_timeout_s=retry_timeout_s, log=Logger("test", "error")
        )
        with pytest.raises(PushError) as failed:
            await publisher.push(VERSION)
    return requests, failed.value


@pytest.mark.parametrize("status", [401, 403, 405, 409, 413, 422])
async def test_permanent_errors_are_not_retried(status):
    began = time.monotonic()
    async with asyncio.timeout(30):
        received_by, error = await push(status, 60.0)
    assert received_by == 1
    assert is_permanent(error)
    assert f"answered {status}: told so" in str(error)
    assert time.monotonic() - began < 30


async def test_temporary_errors_are_retried_until_the_timeout():
    statuses = (404, 500, 503)
    for status, (received_by, error) in zip(
        statuses, await asyncio.gather(*(push(status, 0.6) for status in statuses)), strict=True
    ):
        assert received_by >= 2
        assert not is_permanent(error)
        assert f"answered {status}: told so" in str(error)
