"""Starts environment servers for the games of people, and stops them after use."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from arlarena.client.environments import EnvironmentClient
from arlarena.console.launch.child import Child, ProcessReaper, ProcessSpec
from arlarena.console.launch.health import HttpHealth
from arlarena.console.page.server.security import PageError
from arlarena.console.settings import ENVIRONMENT_TOKEN, inherited
from arlarena.proto.env_api import Info
from arlarena.proto.text.redaction import register_secret

HOST = "127.0.0.1"
# Maximum time of a start, in seconds. WebShop needs the most time, because it loads up to a million products.
START_TIMEOUT_S = 300.0
HEALTH_TIMEOUT_S, POLL_S, STOP_S = 5.0, 0.2, 5.0
# A server that no game uses is stopped after this time, in seconds.
IDLE_S = 120.0
LOG_TAIL_BYTES = 2_000

# The name of an environment, and its options as JSON.
ServerKey = tuple[str, bytes]


@dataclass(slots=True)
class EnvironmentServer:
    """A running environment server. `games`: number of its games. `idle_since`: monotonic time of the last use."""

    child: Child
    client: EnvironmentClient
    info: Info
    games: int = 0
    idle_since: float = field(default_factory=time.monotonic)


class EnvironmentServers:
    """The running environment servers: at most one for each pair of an environment and its options."""

    def __init__(self) -> None:
        self._servers: dict[ServerKey, EnvironmentServer] = {}
        self._lock = asyncio.Lock()
        self._reaper: ProcessReaper | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._janitor: asyncio.Task[None] | None = None

    async def use(self, environment: str, options: dict[str, Any]) -> EnvironmentServer:
        """Returns a server with these options. Starts a server if none is running. Call `release` after the game.

        `options`: the table `[environment.options]` of a run.

        Raises:
            PageError: the server does not start.
        """
        key = (environment, msgspec.json.encode(options, order="deterministic"))
        async with self._lock:
            found = self._servers.get(key)
            if found is not None and found.child.process.returncode is not None:
                await self._stop(key)
                found = None
            if found is None:
                found = self._servers[key] = await self._start(environment, options)
            found.games += 1
        if self._janitor is None:
            self._janitor = asyncio.create_task(self._stop_idle())
        return found

    def release(self, server: EnvironmentServer) -> None:
        """End the use of a server by one game."""
        server.games -= 1
        server.idle_since = time.monotonic()

    async def _start(self, environment: str, options: dict[str, Any]) -> EnvironmentServer:
        if self._reaper is None:
            self._reaper = ProcessReaper(grace_s=STOP_S)
            self._folder = tempfile.TemporaryDirectory(prefix="arlarena-play-")
        assert self._folder is not None
        folder = Path(self._folder.name) / secrets.token_hex(8)
        folder.mkdir()
        configuration = folder / "play.toml"
        configuration.write_text(tomli_w.dumps({"environment": {"name": environment, "options": options}}))
        token = secrets.token_urlsafe(24)
        register_secret(token)
        module = (sys.executable, "-m", "arlarena.env_server", environment)
        argv = (*module, "--config", str(configuration), "--host", HOST, "--port", "0")
        log = folder / "environment.log"
        child = await Child.start(
            ProcessSpec(argv, log, inherited("env_server") | {ENVIRONMENT_TOKEN: token, "PYTHONUNBUFFERED": "1"}),
            self._reaper,
        )
        try:
            await asyncio.wait_for(_ready(child), START_TIMEOUT_S)
            client = EnvironmentClient((await child.address).url, token=token)
            return EnvironmentServer(child, client, await client.info())
        except Exception as error:  # errors of the process and of the client; the log contains the server's own reason
            await child.stop(STOP_S)
            raise PageError(
                503, "unavailable", f"the environment server did not start: {_reason(log, error)}"
            ) from error

    async def _stop(self, key: ServerKey) -> None:
        server = self._servers.pop(key)
        with contextlib.suppress(Exception):  # the server may already have ended
            await server.client.close()
        await server.child.stop(STOP_S)

    async def _stop_idle(self) -> None:
        while True:
            await asyncio.sleep(IDLE_S / 4)
            async with self._lock:
                for key, server in list(self._servers.items()):
                    if not server.games and time.monotonic() - server.idle_since > IDLE_S:
                        await self._stop(key)

    async def close(self) -> None:
        """Stop all servers."""
        if self._janitor is not None:
            self._janitor.cancel()
        async with self._lock:
            for key in list(self._servers):
                await self._stop(key)
        if self._reaper is not None:
            self._reaper.close()
        if self._folder is not None:
            self._folder.cleanup()


async def _ready(child: Child) -> None:
    """Wait until the server answers health checks.

    Raises:
        RuntimeError: the process has ended.
    """
    health = HttpHealth()
    ended = asyncio.create_task(child.process.wait())
    try:
        first_event: set[asyncio.Future[Any]] = {ended, child.address}
        await asyncio.wait(first_event, return_when=asyncio.FIRST_COMPLETED)
        while not ended.done():
            if child.address.done() and await health(child.address.result(), child.started, HEALTH_TIMEOUT_S) is None:
                return
            await asyncio.wait([ended], timeout=POLL_S)
        raise RuntimeError(f"the process ended with status {child.process.returncode}")
    finally:
        ended.cancel()


def _reason(log: Path, error: Exception) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace")[-LOG_TAIL_BYTES:].splitlines() if line.strip()]
    except OSError:
        lines = []
    plain = [line for line in lines if not line.startswith("{")]
    return (plain or [str(error) or type(error).__name__])[-1]
