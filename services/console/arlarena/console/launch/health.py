"""Health checks of processes: an HTTP answer, or progress in files."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp

from arlarena.client.bounded import IDENTITY, read_bounded
from arlarena.console.launch.child import Address

# Answers of /health are a few hundred bytes.
MAX_ANSWER_BYTES = 1 << 20


class HealthCheck(Protocol):
    """One health check of a process."""

    async def __call__(self, address: Address | None, started: float, timeout_s: float) -> str | None:
        """Returns None if healthy, else the problem. `started`: start time of the process, which identifies it."""


@dataclass(frozen=True, slots=True)
class HttpHealth:
    """`GET path` answers 200."""

    path: str = "/health"

    async def __call__(self, address: Address | None, started: float, timeout_s: float) -> str | None:
        """See `HealthCheck`."""
        if address is None:
            return "no address announced"
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
    """Healthy if one of the files changed in the last `hang_timeout_s` seconds. Set `hang_timeout_s` above the time
    of another service's restart, because a process that waits for it writes nothing. The monotonic clock is used, so
    a change of the system clock has no effect.
    """

    files: tuple[Path, ...]
    hang_timeout_s: float
    _seen: object = None
    _seen_at: float = 0.0

    async def __call__(self, address: Address | None, started: float, timeout_s: float) -> str | None:
        """See `HealthCheck`."""
        seen = (started, await asyncio.to_thread(self._state))
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        silent = now - self._seen_at
        return None if silent < self.hang_timeout_s else f"no sign of work for {silent:.0f} s"

    def _state(self) -> list[tuple[int, int]]:
        """Returns the modification time and size of each existing file."""
        found = []
        for file in self.files:
            try:
                status = file.stat()
            except OSError:
                continue  # not written yet
            found.append((status.st_mtime_ns, status.st_size))
        return found
