"""A server with scripted frames on a loopback port, to test the reaction of an evaluation to these frames."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from arlarena.client.environments import EnvironmentClient, StepOutcome
from arlarena.client.errors import ServiceError
from arlarena.client.transport import Timeouts
from arlarena.rollout.evaluation.openenv.client import OpenEnvClient
from arlarena.rollout.evaluation.openenv.rules import SEEDS

QUICK = Timeouts(2.0, 5.0)
TEXT_ACTION = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
Answer = Callable[[web.WebSocketResponse, dict[str, Any]], Awaitable[None]]


def observed(text: str = "go", *, reward: float | None = None, done: bool = False, **extra: Any) -> str:
    """Return a frame with an observation."""
    data = {"observation": {"text": text, **extra}, "reward": reward, "done": done}
    return json.dumps({"type": "observation", "data": data})


def failed(code: str, message: str = "why", **extra: Any) -> str:
    """Return a frame with an error."""
    return json.dumps({"type": "error", "data": {"code": code, "message": message, **extra}})


@dataclass
class ScriptedOpenEnv:
    """A server and its replies.

    Attributes:
        reset, step: the frame of the reply, or a function that sends the reply.
        splits: split → number of tasks, in the Task API. None: the server has no Task API.
        token: token that all routes require. None: no token is required.
        received: all frames from clients.
        headers: the header Authorization of each WebSocket connection.
        sockets: number of open sockets.
    """

    url: str = ""
    metadata: Any = field(default_factory=lambda: {"name": "scripted", "version": None, "description": "d"})
    schemas: Any = field(default_factory=lambda: {"action": TEXT_ACTION, "observation": {}, "state": {}})
    greeting: str = ""
    reset: str | Answer = field(default_factory=observed)
    step: str | Answer = field(default_factory=observed)
    state: str = '{"type":"state","data":{}}'
    splits: dict[str, int] | None = None
    token: str | None = None
    received: list[dict[str, Any]] = field(default_factory=list)
    headers: list[str | None] = field(default_factory=list)
    sockets: int = 0

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=1 << 20)
        self.headers.append(request.headers.get("authorization"))
        await socket.prepare(request)
        if self.greeting:
            await socket.send_str(self.greeting)
            await socket.close(code=1000)
            return socket
        self.sockets += 1
        try:
            async for message in socket:
                frame = json.loads(message.data)
                self.received.append(frame)
                if frame["type"] == "close":
                    break
                answer = getattr(self, frame["type"])
                if isinstance(answer, str):
                    await socket.send_str(answer)
                else:
                    await answer(socket, frame)
        finally:
            self.sockets -= 1
        await socket.close()
        return socket

    async def _get(self, request: web.Request) -> web.Response:
        splits = self.splits
        if splits is None and request.path == "/scripted/splits":
            return web.json_response({"detail": "list_splits is not supported"}, status=501)
        answers = {
            "/metadata": self.metadata,
            "/schema": self.schemas,
            "/list_environments": ["scripted"],
            "/scripted/splits": [{"name": name, "type": name} for name in splits or ()],
        }
        return web.json_response(answers[request.path])

    async def _size(self, request: web.Request) -> web.Response:
        assert self.splits is not None
        return web.json_response({"num_tasks": self.splits[(await request.json())["split"]]})

    @web.middleware
    async def authorize(self, request: web.Request, handler: Any) -> Any:
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            return web.json_response({"detail": "Invalid credentials"}, status=401)
        return await handler(request)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.authorize])
        for path in ("/metadata", "/schema", "/list_environments", "/scripted/splits"):
            app.router.add_get(path, self._get)
        app.router.add_post("/scripted/num_tasks", self._size)
        app.router.add_get("/ws", self._socket)
        return app


@asynccontextmanager
async def scripted_openenv(port: int = 0, **answers: Any) -> AsyncIterator[ScriptedOpenEnv]:
    """Serve on a port. 0: a free port."""
    server = ScriptedOpenEnv(**answers)
    runner = web.AppRunner(server.app(), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    server.url = "http://{}:{}".format(*runner.addresses[0])
    try:
        yield server
    finally:
        await runner.cleanup()


async def solve(url: str, index: int) -> list[str]:
    """Return the expert's replies for a task."""
    async with EnvironmentClient(url, QUICK) as client:
        (session,) = await client.open(1)
        await session.reset(split="train", index=index, seed=0)
        plan = (await session.expert()).plan
        await session.close()
        return plan


async def play(session: Any, replies: list[str], **task: Any) -> list[StepOutcome]:
    """Play replies in a session. Return all states of the episode."""
    states = [await session.reset(**task)]
    for reply in replies:
        states.append(await session.step(reply))
    return states


async def one_step(client: OpenEnvClient) -> None:
    (session,) = await client.open(1)
    try:
        await session.reset(split=SEEDS, index=0, seed=0)
        await session.step("left")
    finally:
        await session.close()


async def outcome_of(error: type[ServiceError], match: str, **answers: Any) -> None:
    """Assert that an episode of one step raises `error`, with `match` and the server's address in its message."""
    async with (
        scripted_openenv(**answers) as server,
        OpenEnvClient(server.url, timeouts=QUICK, max_frame_bytes=1 << 20) as client,
    ):
        with pytest.raises(error, match=match) as raised:
            await one_step(client)
        assert f"{server.url}/ws" in str(raised.value)
        assert type(raised.value) is error


def frame(data: str) -> str:
    return f'{{"type":"observation","data":{data}}}'
