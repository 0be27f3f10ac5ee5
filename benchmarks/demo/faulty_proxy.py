"""An HTTP proxy in front of a service. The proxy makes a share of the requests fail.

Four kinds of faults are equally likely: status 503 ("refused"), status 500 ("error"), a closed connection before the
request reaches the service ("broken"), and a closed connection after the service has executed the request ("lost").
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from benchmarks.support.ports import free_port

HOP = {"host", "content-length", "transfer-encoding", "connection"}  # headers that a proxy does not forward


class Proxy:
    """An HTTP proxy that forwards requests to a service on this machine, and makes some requests fail.

    Attributes:
        port: port of the proxy.
        fault_rate: share of the requests that fail. Initially 0.
        failed: kind of fault → number of requests.
        passed: number of requests without an injected fault.
    """

    def __init__(self, port: int, rng: random.Random) -> None:
        self.target, self.port = f"http://127.0.0.1:{port}", free_port()
        self.fault_rate, self.failed, self.passed = 0.0, Counter[str](), 0
        self._rng = rng
        self._session: aiohttp.ClientSession

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the proxy until the end of the `async with` block."""
        app = web.Application(client_max_size=1 << 28)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=300)
        ) as self._session:
            yield
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        fault = self._rng.choice(("refused", "error", "broken", "lost")) if self._rng.random() < self.fault_rate else ""
        if fault:
            self.failed[fault] += 1
        if fault in ("refused", "error"):
            return web.Response(
                status=503 if fault == "refused" else 500, text="fault injected by benchmarks/demo/faulty_proxy.py"
            )
        if fault == "broken":
            return _break_off(request)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
            async with self._session.request(
                request.method, self.target + request.path_qs, data=await request.read(), headers=headers
            ) as reply:
                body = await reply.read()
        except (aiohttp.ClientError, OSError, TimeoutError):  # the service was killed
            return _break_off(request)
        if fault == "lost":
            return _break_off(request)
        self.passed += 1
        passed_on = {name: value for name, value in reply.headers.items() if name.lower() not in HOP}
        return web.Response(status=reply.status, body=body, headers=passed_on)


def _break_off(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
