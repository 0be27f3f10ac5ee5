"""Requests to other members of a cluster: unreadable replies are errors of the infrastructure."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from arlarena.env_server.cluster.peers import Pods
from arlarena.env_server.errors import ApiError
from arlarena.proto.env_api import Capacity


@pytest.mark.parametrize(("status", "body"), [(200, "<html>"), (200, '{"max_sessions": "many"}'), (502, "<html>")])
async def test_an_unreadable_reply_is_an_error_with_status_503(status: int, body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    application = web.Application()
    application.router.add_get("/v1/capacity", answer)
    async with TestServer(application) as server:
        pods = Pods(f"http://127.0.0.1:{server.port}", 0)
        try:
            with pytest.raises(ApiError, match="pod 3 sent an unreadable reply") as caught:
                await pods.ask(3, "GET", "/v1/capacity", Capacity)
        finally:
            await pods.close()
    assert (caught.value.status, caught.value.code, caught.value.retryable) == (503, "pod_away", True)
