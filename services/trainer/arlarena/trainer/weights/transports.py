"""Sends versions (the weights of one training step) to the policy servers.

The transports are a shared directory, HTTP, and a broadcast to the servers' workers.
"""

from __future__ import annotations

from typing import Protocol

from arlarena.client.weights import Sender, WeightsClient
from arlarena.proto.versions.directory import ServedVersion, push_limit_s
from arlarena.trainer.weights.collective import Broadcaster
from arlarena.trainer.weights.versions import Version


class Transport(Protocol):
    """Sends versions to policy servers. It is safe to push a version more than once."""

    async def push(self, version: Version, server: WeightsClient) -> tuple[ServedVersion, int]:
        """Send `version` to `server` and make the server use this version.

        Returns the server's report about its new version, and the number of bytes sent.

        Raises:
            PushRefused: the server refused the version, for example because its check of the weights failed.
            PushError, aiohttp.ClientError, TimeoutError: the push failed. If `push.is_permanent(error)` is True for a
                PushError, a retry cannot succeed.
        """

    def pushed(self) -> None:
        """Remove temporary data. Call this method when all servers use the version."""

    def close(self) -> None:
        """Release resources at the end of the run."""


class SharedDirectory:
    """The transport for servers that read the same version directories as the trainer."""

    async def push(self, version: Version, server: WeightsClient) -> tuple[ServedVersion, int]:
        """Make `server` load the version from the shared directory."""
        return await server.serve(str(version.version), push_limit_s(version.bytes)), 0

    def pushed(self) -> None:
        """Do nothing: there is no temporary data."""

    def close(self) -> None:
        """Do nothing: there are no resources."""


class Http:
    """Uploads those files of a version that the server does not have yet."""

    def __init__(self, full_every: int) -> None:
        """`full_every` = n: every n-th version is uploaded completely, and the other versions as differences."""
        self._sender = Sender(full_every)

    async def push(self, version: Version, server: WeightsClient) -> tuple[ServedVersion, int]:
        """Upload the files to `server`, and make the server load the version."""
        sent = await self._sender.deliver(version.path, server)
        return await server.serve(str(version.version), push_limit_s(version.bytes)), sent

    def pushed(self) -> None:
        """Remove temporary data."""
        self._sender.forget()

    def close(self) -> None:
        """Do nothing: there are no resources."""


class Collective:
    """Sends each server the broadcaster's address. The server's workers join a process group with the broadcaster."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        """Store `broadcaster`. The broadcaster sends versions until `close` is called."""
        self._broadcaster = broadcaster

    async def push(self, version: Version, server: WeightsClient) -> tuple[ServedVersion, int]:
        """Offer the version, and make the server's workers receive it from the broadcaster."""
        offer = self._broadcaster.offer(version.path)
        return await server.serve(str(version.version), push_limit_s(version.bytes), offer), version.bytes

    def pushed(self) -> None:
        """Do nothing: the broadcaster must keep the version, because a replica requests it again after a restart."""

    def close(self) -> None:
        """Stop the broadcaster."""
        self._broadcaster.close()
