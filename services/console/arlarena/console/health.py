"""How the launcher knows that a process is well: it answers, or it gets on with its work."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp

from arlarena.client.bounded import IDENTITY, read_bounded
from arlarena.console.process import Address

# Answers of /health are a few hundred bytes.
MAX_ANSWER_BYTES = 1 << 20


class HealthCheck(Protocol):
    """Asks one process once."""

    async def __call__(self, address: Address | None, started: float, timeout_s: float) -> str | None:
        """None if all is well, else what is wrong. `started`: when the process began, in seconds of `time.time`."""


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


@dataclass(frozen=True, slots=True)
class Activity:
    """One of these files changed in the last `stall_s` seconds: for processes that serve nobody and write as they work.

    A process that waits for another one's restart is silent too, so `stall_s` has to outlast that.
    """

    files: tuple[Path, ...]
    stall_s: float

    async def __call__(self, address: Address | None, started: float, timeout_s: float) -> str | None:
        """See `HealthCheck`."""
        last = await asyncio.to_thread(self._last_change)
        silent = time.time() - max(last, started)
        return None if silent < self.stall_s else f"no sign of work for {silent:.0f} s"

    def _last_change(self) -> float:
        times = []
        for file in self.files:
            try:
                times.append(file.stat().st_mtime)
            except OSError:
                continue  # not written yet
        return max(times, default=0.0)
