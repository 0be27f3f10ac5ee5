"""How versions reach the policy servers: by a shared directory, by HTTP, or by broadcast to their workers."""

from __future__ import annotations

from typing import Protocol

from arlarena.client.weights import Sender, WeightsClient
from arlarena.proto.versions.directory import ServedVersion, push_limit_s
from arlarena.trainer.weights.collective import Broadcaster
from arlarena.trainer.weights.versions import Version


class Transport(Protocol):
    """Sends a version to a server and makes the server serve it. Pushes are idempotent."""

    async def push(self, version: Version, server: WeightsClient) -> tuple[ServedVersion, int]:
        """Returns the server's report of the version that it serves, and the bytes sent over the network.

        Raises:
            PushRefused: its check of the weights failed.
            PushError, aiohttp.ClientError, TimeoutError: the push failed; a retry may succeed.
        """

    def pushed(self) -> None:
        """Remove temporary data: every server serves the version."""

    def close(self) -> None:
        """Release resources at the end of the run."""


class SharedDirectory:
    """For servers that read the same version directories as the trainer."""

    async def push(self, version: Version, server: WeightsClient) -> tuple[ServedVersion, int]:
        """See `Transport`."""
        return await server.serve(str(version.version), push_limit_s(version.bytes)), 0

    def pushed(self) -> None:
        """See `Transport`."""

    def close(self) -> None:
        """See `Transport`."""


class Http:
    """Uploads to each server the files that it lacks: complete files every `full_every` versions, else deltas."""

    def __init__(self, full_every: int) -> None:
        """See `Sender`."""
        self._sender = Sender(full_every)

    async def push(self, version: Version, server: WeightsClient) -> tuple[ServedVersion, int]:
        """See `Transport`."""
        sent = await self._sender.deliver(version.path, server)
        return await server.serve(str(version.version), push_limit_s(version.bytes)), sent

    def pushed(self) -> None:
        """See `Transport`."""
        self._sender.forget()

    def close(self) -> None:
        """See `Transport`."""


class Collective:
    """Tells each server the address of the broadcaster. Its workers then join a process group with this trainer."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        """`broadcaster` sends until `close`."""
        self._broadcaster = broadcaster

    async def push(self, version: Version, server: WeightsClient) -> tuple[ServedVersion, int]:
        """See `Transport`."""
        offer = self._broadcaster.offer(version.path)
        return await server.serve(str(version.version), push_limit_s(version.bytes), offer), version.bytes

    def pushed(self) -> None:
        """See `Transport`. Versions stay offered, because a replica asks for the newest one after a restart."""

    def close(self) -> None:
        """See `Transport`."""
        self._broadcaster.close()
