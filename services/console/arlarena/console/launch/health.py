"""How the launcher knows that a process is well: it answers, or it gets on with its work."""

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
    """Asks one process once."""

    async def __call__(self, address: Address | None, started: float, timeout_s: float) -> str | None:
        """None if all is well, else what is wrong. `started`: when the process began; another one has another time."""


@dataclass(frozen=True, slots=True)
class HttpHealth:
    """`GET path` answers 200."""

    path: str = "/health"

    async def __call__(self, address: Address | None, started: float, timeout_s: float) -> str | None:
        """See `HealthCheck`."""
        if address is None:
            return "it has not announced an address"
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
    """One of these files changed in the last `hang_timeout_s` seconds: for processes that write while they work.

    A process that waits for another one's restart is silent too, so `hang_timeout_s` has to outlast that. Changes are
    timed by the monotonic clock: a change of the machine's clock is no silence.
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
        """Time of the last change and size of each file that exists."""
        found = []
        for file in self.files:
            try:
                status = file.stat()
            except OSError:
                continue  # not written yet
            found.append((status.st_mtime_ns, status.st_size))
        return found
