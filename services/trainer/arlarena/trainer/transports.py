"""How a version's files come to the policy servers: they read the trainer's directory, or are sent them by HTTP."""

from __future__ import annotations

from typing import Protocol

from arlarena.client.weights import Sender, WeightsClient
from arlarena.trainer.versions import Version


class Transport(Protocol):
    """Makes sure that a server has a version; afterwards it can be told to serve it. Safe to repeat."""

    async def deliver(self, version: Version, server: WeightsClient) -> int:
        """Bring what `server` has not. Returns the bytes that went over the network.

        Raises:
            PushError, aiohttp.ClientError, TimeoutError: it failed; trying again may help.
        """

    def delivered(self) -> None:
        """Every server has the version: what was made to bring it can go."""


class SharedDirectory:
    """Trainer and servers see the same directory of versions: there is nothing to bring."""

    async def deliver(self, version: Version, server: WeightsClient) -> int:
        """See `Transport`."""
        return 0

    def delivered(self) -> None:
        """See `Transport`."""


class Http:
    """Sends each server what it lacks: whole files every now and then, else what changed."""

    def __init__(self, full_every: int) -> None:
        """See `Sender`."""
        self._sender = Sender(full_every)

    async def deliver(self, version: Version, server: WeightsClient) -> int:
        """See `Transport`."""
        return await self._sender.deliver(version.path, server)

    def delivered(self) -> None:
        """See `Transport`."""
        self._sender.forget()
