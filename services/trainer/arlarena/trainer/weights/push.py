"""Pushes versions to the policy servers. Each server gets the version, loads the weights and checks the probe.

A version is the weights of one training step. The probe is a list of tokens with the trainer's log-probs. The server
compares these log-probs with the log-probs of its engine. The comparison is needed, because an engine can report
success and still use some of the old weights. A push to a restarting server is retried.
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

# Pause between two attempts of a push, in seconds. An engine with a tiny policy restarts in about 5 s.
_RETRY_PAUSE_S = 0.5
# HTTP statuses of errors that a retry cannot correct: a wrong token, another program at the address, or a version that
# is too large.
_PERMANENT = (401, 403, 405, 413, 422)


def is_permanent(error: PushError) -> bool:
    """True if a retry of the failed push cannot succeed."""
    return isinstance(error, PushRefused) or error.status in _PERMANENT


@dataclass(frozen=True, slots=True)
class PushResult:
    """The result of a push to all servers. `sent`: number of bytes sent.

    `difference`: the largest difference between a server's and the trainer's log-probs of the probe, in nats.
    """

    difference: float
    sent: int
    seconds: float


class Publisher:
    """Pushes versions to every policy server of a run."""

    def __init__(
        self, urls: Sequence[str], transport: Transport, *, token: str | None, retry_timeout_s: float, log: Logger
    ) -> None:
        """Store the arguments.

        `token`: the admin token of the servers. `retry_timeout_s`: how long a failed push is retried, in seconds.
        """
        self._urls, self._transport, self._token = urls, transport, token
        self._retry_timeout_s, self._log = retry_timeout_s, log

    async def push(self, version: Version, guard: Callable[[], None] = lambda: None) -> PushResult:
        """Push `version` to every server. After this call all servers use the version and have checked it.

        `guard` is called before each attempt. It raises an exception if the trainer must stop.

        Raises:
            PushRefused: a server refused the version, for example because the check of the weights failed.
            PushError: pushes to a server failed for `retry_timeout_s` seconds, or with an error that a retry cannot
                correct.
        """
        began = time.monotonic()
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            servers = [WeightsClient(session, url, self._token) for url in self._urls]
            results = await asyncio.gather(*(self._push_one(server, version, guard) for server in servers))
        self._transport.pushed()
        difference, sent = max((result[0] for result in results), default=0.0), sum(result[1] for result in results)
        return PushResult(difference, sent, time.monotonic() - began)

    def close(self) -> None:
        """Close the transport at the end of the run."""
        self._transport.close()

    async def _push_one(self, server: WeightsClient, version: Version, guard: Callable[[], None]) -> tuple[float, int]:
        deadline = time.monotonic() + self._retry_timeout_s
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
                        f"push of {version.version} to {server.url} failed for {self._retry_timeout_s:.0f} s; "
                        f"last error: {reason}"
                    ) from error
                self._log.warning("push_retry", url=server.url, version=str(version.version), reason=reason)
                await asyncio.sleep(_RETRY_PAUSE_S)
