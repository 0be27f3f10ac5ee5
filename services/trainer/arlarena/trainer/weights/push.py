"""New weights for the policy servers: bring a version to each, tell it to serve that, and believe only what it checked.

A server that answers 200 has computed the version's probe with the weights that it serves, or is about to: an engine
may take new weights, say so, and go on with some of the old. One that restarts is brought to the newest version by
itself or by its gateway, so a push that meets a restarting server is simply tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from arlarena.client.weights import PushError, PushRefused, WeightsClient
from arlarena.proto.telemetry import Logger
from arlarena.trainer.weights.transports import Transport
from arlarena.trainer.weights.versions import Version

# Between two attempts at a push, in seconds: a tiny engine restarts in about five.
_RETRY_PAUSE_S = 0.5
# Answers that no repetition changes: a wrong token, another program at that address, a version that is too large.
_PERMANENT = (401, 403, 405, 413, 422)


def is_permanent(error: PushError) -> bool:
    """Whether trying again does not help."""
    return isinstance(error, PushRefused) or error.status in _PERMANENT


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push came to. `difference`: the largest |Δ log-prob| of the probe over all servers; `sent`: bytes."""

    difference: float
    sent: int
    seconds: float


class Publisher:
    """Pushes versions to every policy server of a run."""

    def __init__(
        self, urls: Sequence[str], transport: Transport, *, token: str | None, patience_s: float, log: Logger
    ) -> None:
        """`token` is the servers' administrator's; `patience_s` bounds how long failures are tried again."""
        self._urls, self._transport, self._token = urls, transport, token
        self._patience_s, self._log = patience_s, log

    async def push(self, version: Version, guard: Callable[[], None] = lambda: None) -> Pushed:
        """Bring every server to `version`, checked. `guard` is called before every attempt, and raises where the
        trainer must stop.

        Raises:
            PushRefused: a server's check of the weights failed. PushError: one kept failing for `patience_s`, or
                gave an answer that trying again does not change.
        """
        began = time.monotonic()
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            servers = [WeightsClient(session, url, self._token) for url in self._urls]
            found = await asyncio.gather(*(self._push_one(server, version, guard) for server in servers))
        self._transport.pushed()
        differences, sent = [one[0] for one in found], sum(one[1] for one in found)
        return Pushed(max(differences, default=0.0), sent, time.monotonic() - began)

    def close(self) -> None:
        """The run is over."""
        self._transport.close()

    async def _push_one(self, server: WeightsClient, version: Version, guard: Callable[[], None]) -> tuple[float, int]:
        deadline = time.monotonic() + self._patience_s
        while True:
            guard()
            try:
                served, sent = await self._transport.push(version, server)
                return served.probe or 0.0, sent
            except (aiohttp.ClientError, TimeoutError, PushError) as error:
                reason = str(error) or type(error).__name__
                if isinstance(error, PushError) and is_permanent(error):
                    raise
                if time.monotonic() > deadline:
                    raise PushError(
                        f"{server.url} did not take {version.version} within {self._patience_s:.0f} s; last: {reason}"
                    ) from error
                self._log.warning("push_retry", url=server.url, version=str(version.version), reason=reason)
                await asyncio.sleep(_RETRY_PAUSE_S)
