"""How a version comes to the policy servers: by a directory that they share, by HTTP, or broadcast to their workers."""

from __future__ import annotations

from typing import Protocol

from arlarena.client.weights import Sender, WeightsClient
from arlarena.proto.versions.directory import ServedVersion, push_limit_s
from arlarena.trainer.weights.collective import Broadcaster
from arlarena.trainer.weights.versions import Version


class Transport(Protocol):
    """Brings a version into a server's service. Safe to repeat."""

    async def push(self, version: Version, server: WeightsClient) -> tuple[ServedVersion, int]:
        """What `server` says once it serves the version, and the bytes that went to it over the network.

        Raises:
            PushRefused: its check of the weights failed.
            PushError, aiohttp.ClientError, TimeoutError: it failed; trying again may help.
        """

    def pushed(self) -> None:
        """Every server has the version: what was made to bring it can go."""

    def close(self) -> None:
        """The run is over."""


class SharedDirectory:
    """Trainer and servers see the same directory of versions."""

    async def push(self, version: Version, server: WeightsClient) -> tuple[ServedVersion, int]:
        """See `Transport`."""
        return await server.serve(str(version.version), push_limit_s(version.bytes)), 0

    def pushed(self) -> None:
        """See `Transport`."""

    def close(self) -> None:
        """See `Transport`."""


class Http:
    """Sends each server what it lacks: whole files every now and then, else what changed."""

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
    """Tells each server where the tensors come from; its workers join a process group with this trainer, or more than
    once, where one was started again.
    """

    def __init__(self, broadcaster: Broadcaster) -> None:
        """`broadcaster` sends until `close`."""
        self._broadcaster = broadcaster

    async def push(self, version: Version, server: WeightsClient) -> tuple[ServedVersion, int]:
        """See `Transport`."""
        offer = self._broadcaster.offer(version.path)
        return await server.serve(str(version.version), push_limit_s(version.bytes), offer), version.bytes

    def pushed(self) -> None:
        """See `Transport`. A replica that is started again asks for the newest version."""

    def close(self) -> None:
        """See `Transport`."""
        self._broadcaster.close()
