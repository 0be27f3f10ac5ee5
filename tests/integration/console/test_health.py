"""`HttpHealth` reads little of an answer and goes nowhere else: whoever has the port may be hostile."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from arlarena.console.launch import health
from arlarena.console.launch.child import Address
from arlarena.console.launch.health import MAX_ANSWER_BYTES, Activity, HttpHealth

asked: list[str] = []


async def well(request: web.Request) -> web.StreamResponse:
    asked.append(request.path)
    return web.Response(text="{}")


async def redirect(request: web.Request) -> web.StreamResponse:
    return web.Response(status=307, headers={"location": f"http://{request.host}/elsewhere"})


async def endless(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse()
    await reply.prepare(request)
    sent = 0
    while sent < 64 * MAX_ANSWER_BYTES:
        await reply.write(b"x" * 65536)
        sent += 65536
    return reply


async def bomb(_: web.Request) -> web.StreamResponse:
    return web.Response(body=gzip.compress(bytes(1 << 26)), headers={"content-encoding": "gzip"})


async def silent(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (well, None),
        (redirect, "redirects to"),
        (endless, f"more than {MAX_ANSWER_BYTES} bytes"),
        (bomb, "encoding 'gzip'"),
        (silent, "did not answer in 0.5 s"),
    ],
)
async def test_an_answer_is_read_in_bounds(handler: Handler, says: str | None) -> None:
    asked.clear()
    app = web.Application()
    app.router.add_get("/health", handler)
    app.router.add_get("/elsewhere", well)
    async with TestServer(app) as server:
        problem = await HttpHealth()(Address("127.0.0.1", server.port or 0), 0.0, 0.5 if handler is silent else 5.0)
    assert problem is None if says is None else says in str(problem)
    assert "/elsewhere" not in asked


class Clock:
    """Both clocks of a machine, set by the test."""

    def __init__(self) -> None:
        self.wall, self.running = 1e9, 50.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.running


async def test_a_clock_that_is_set_anew_makes_no_process_hang_and_no_hanging_one_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, log = Clock(), tmp_path / "log"
    monkeypatch.setattr(health, "time", clock)
    log.write_text("x")
    check = Activity((log, tmp_path / "missing"), 60.0)
    assert await check(None, 1e9, 5) is None
    clock.wall += 86_400  # forwards by a day
    assert await check(None, 1e9, 5) is None
    clock.wall -= 2 * 86_400
    clock.running += 61.0
    assert await check(None, 1e9, 5) == "no new output for 61 s"
    log.write_text("more")
    assert await check(None, 1e9, 5) is None
    clock.running += 61.0
    assert await check(None, 2e9, 5) is None  # another process
