"""Handles vLLM's routes for LoRA adapters. The gateway loads each adapter on every replica. When a replica has
restarted, the gateway loads all adapters on this replica again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import msgspec

from arlarena.inference.api.asgi import AnyResponse, ApiRequest, ApiResponse
from arlarena.inference.api.errors import RequestError
from arlarena.inference.api.parameters import parse

if TYPE_CHECKING:
    from arlarena.inference.gateway.fleet import Fleet
    from arlarena.inference.gateway.replica import Replica

_LIMIT_S = 60.0  # time limit of a request to one replica, in seconds


class _AdapterName(msgspec.Struct):
    lora_name: str


class Adapters:
    """The LoRA adapters that clients have loaded through the gateway. `_loaded`: for each adapter's name, the body of
    the request that loaded the adapter.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._loaded: dict[str, bytes] = {}
        for replica in fleet.replicas:
            replica.prepare = self.restore

    async def load(self, call: ApiRequest) -> AnyResponse:
        """Handle `POST /v1/load_lora_adapter {"lora_name": …, "lora_path": …}`: load an adapter on all replicas."""
        name, reply = self._name(call), await self._post_to_all(call)
        if reply.status == 200:
            self._loaded[name] = call.body
        return reply

    async def unload(self, call: ApiRequest) -> AnyResponse:
        """Handle `POST /v1/unload_lora_adapter {"lora_name": …}`: remove an adapter from all replicas."""
        self._loaded.pop(self._name(call), None)
        return await self._post_to_all(call)

    async def restore(self, replica: Replica) -> None:
        """Load all adapters on a replica. Called after a start or a failure of the replica.

        Raises:
            aiohttp.ClientError, TimeoutError: the replica does not answer.
        """
        for body in self._loaded.values():
            await _post(replica, "/v1/load_lora_adapter", body)

    def _name(self, call: ApiRequest) -> str:
        return parse(call.body, _AdapterName).lora_name

    async def _post_to_all(self, call: ApiRequest) -> ApiResponse:
        """Send a request to all replicas that accept requests, one after another. Stops after the first error response.
        Returns the last response.

        Raises:
            RequestError: status 502 if a replica does not answer; status 503 if no replica accepts requests.
        """
        reply: ApiResponse | None = None
        for replica in self._fleet.replicas:
            if replica.accepts_requests:
                try:
                    reply = await _post(replica, call.path, call.body)
                except (aiohttp.ClientError, TimeoutError) as error:
                    raise RequestError(
                        f"{replica.name} failed: {error!r}; send this request again", status=502
                    ) from error
                if reply.status != 200:
                    return reply
        if reply is None:
            raise RequestError("no replica is ready: wait until GET /ready answers 200", status=503)
        return reply


async def _post(replica: Replica, path: str, body: bytes) -> ApiResponse:
    timeout = aiohttp.ClientTimeout(total=_LIMIT_S)
    headers = {"content-type": "application/json"}
    async with replica.session.post(replica.url + path, data=body, headers=headers, timeout=timeout) as reply:
        return ApiResponse(await reply.read(), reply.status, reply.content_type.encode())
