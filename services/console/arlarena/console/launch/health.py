"""Health checks of processes, by an HTTP request or by changes of files."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp

from arlarena.client.bounded import IDENTITY, read_bounded
from arlarena.console.launch.child import AnyAddress

# Limit of a response. Normal responses of /health have a few hundred bytes.
MAX_ANSWER_BYTES = 1 << 20


class HealthCheck(Protocol):
    """One health check of a process."""

    async def __call__(self, address: AnyAddress | None, started: float, timeout_s: float) -> str | None:
        """Returns None if the process is healthy, else the problem.

        `started`: the start time of the process. It is different after a restart. `timeout_s`: maximum duration of the
        check.
        """


@dataclass(frozen=True, slots=True)
class HttpHealth:
    """A check by HTTP. The process is healthy if `GET path` responds with status 200."""

    path: str = "/health"

    async def __call__(self, address: AnyAddress | None, started: float, timeout_s: float) -> str | None:
        """Send the request. Returns None if the process is healthy, else the problem."""
        if address is None:
            return "the service has not announced its address"
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with (
                aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
                session.get(address.url + self.path, headers=IDENTITY, allow_redirects=False) as reply,
            ):
                await read_bounded(reply, MAX_ANSWER_BYTES)
                return None if reply.status == 200 else f"GET {self.path} answered {reply.status}"
        except TimeoutError:
            return f"GET {self.path} did not answer in {timeout_s:g} s"
        except (aiohttp.ClientError, OSError) as error:
            return f"GET {self.path} failed: {error or type(error).__name__}"


@dataclass(slots=True)
class Activity:
    """A check of files. The process is healthy if one of `files` changed in the last `hang_timeout_s` seconds.

    A process that waits for another service writes nothing. Therefore `hang_timeout_s` must be longer than the restart
    of another service. Times are from the monotonic clock. Changes of the system clock have no effect.
    """

    files: tuple[Path, ...]
    hang_timeout_s: float
    _seen: object = None
    _seen_at: float = 0.0

    async def __call__(self, address: AnyAddress | None, started: float, timeout_s: float) -> str | None:
        """Check the files. Returns None if the process is healthy, else the problem."""
        seen = (started, await asyncio.to_thread(self._state))
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        silent = now - self._seen_at
        return None if silent < self.hang_timeout_s else f"no new output for {silent:.0f} s"

    def _state(self) -> list[tuple[int, int]]:
        """Returns the modification time and size of each existing file."""
        states = []
        for file in self.files:
            try:
                status = file.stat()
            except OSError:
                continue  # the file does not exist yet
            states.append((status.st_mtime_ns, status.st_size))
        return states
