"""Tasks, groups and connections for the tests of the streams."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from arlarena.proto.streams.queue import Streams
from arlarena.proto.trajectory import Group, GroupTask, PolicyVersion, Sampling, Task

VERSION = PolicyVersion("test", 0, "00")
Connect = Callable[..., Awaitable[Streams]]


@pytest.fixture
def make_tasks() -> Callable[..., list[GroupTask]]:
    """`make_tasks(n)`: tasks of groups g0 to g<n-1>."""
    return lambda n, first=0: [
        GroupTask(f"g{i}", Task("sokoban", "train", i), 2, Sampling()) for i in range(first, first + n)
    ]


@pytest.fixture
def make_group() -> Callable[[GroupTask, str], Group]:
    """`make_group(task, worker)`: a group that `worker` would publish."""
    return lambda task, worker="w": Group(task.group_id, task.task, 2, (), Sampling(), VERSION, VERSION, worker)


@pytest.fixture
async def connect(redis_url: str, run_name: str) -> AsyncIterator[Connect]:
    """`connect(**limits)`: a new connection to the run of this test, closed at its end."""
    opened: list[Streams] = []

    async def one_more(url: str = redis_url, **limits: Any) -> Streams:
        streams = await Streams.connect(url, run_name, **limits)
        opened.append(streams)
        return streams

    yield one_more
    for streams in opened:
        await streams.close()


class Proxy:
    """A TCP proxy to the broker that can drop the reply to a command, or close the connection instead."""

    def __init__(self, url: str) -> None:
        self.target = int(url.rsplit(":", 1)[1].partition("/")[0])
        self.credentials = url.removeprefix("redis://").rpartition("@")[0]
        self.trigger: bytes | None = None
        self.then_break = True
        self.fired = asyncio.Event()
        self.server: asyncio.Server | None = None
        self.url = ""

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"redis://{self.credentials}@127.0.0.1:{self.server.sockets[0].getsockname()[1]}/0"

    def lose_answer(self, command: bytes, *, then_break: bool = True) -> None:
        """The broker executes the next request that contains `command`, but its reply is lost."""
        self.trigger, self.then_break = command, then_break
        self.fired.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self.target)
        answers = asyncio.create_task(self._copy(back_reader, writer))
        while request := await reader.read(1 << 20):
            fires = self.trigger is not None and self.trigger in request
            if fires:
                self.trigger = None
                answers.cancel()
                await asyncio.gather(answers, return_exceptions=True)
            back_writer.write(request)
            await back_writer.drain()
            if fires:
                await back_reader.read(1 << 20)
                self.fired.set()
                if self.then_break:
                    break
        writer.close()
        back_writer.close()
        answers.cancel()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            writer.write(data)
            await writer.drain()


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the broker."""
    relay = Proxy(redis_url)
    await relay.start()
    yield relay
    assert relay.server is not None
    relay.server.close()
