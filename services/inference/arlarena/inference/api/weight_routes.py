"""Weight routes: clients upload new weights by these routes, and bring the weights into service. Embedded engines and
gateways have these routes. `arlarena.proto.versions.directory` describes the format of the weights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from arlarena.inference.api.asgi import AnyResponse, ApiRequest, ApiResponse, body_chunks
from arlarena.inference.api.errors import RequestError
from arlarena.inference.api.parameters import parse
from arlarena.inference.weights.store import Store, UnknownVersion
from arlarena.inference.weights.versions import ProbeError, Source, VersionError
from arlarena.proto.versions.directory import ServedVersion, ServeWeights

_encoder = msgspec.json.Encoder()


class WeightRoutes:
    """The handlers of the weight routes. `serve`: a function that brings one version of the weights into service."""

    def __init__(self, store: Store, serve: Callable[[Source], Awaitable[ServedVersion]]) -> None:
        self._store, self._serve = store, serve
        self._lock = asyncio.Lock()  # only one version at a time is brought into service

    async def announce(self, call: ApiRequest) -> AnyResponse:
        """Handle `PUT /weights/{directory}`: begin the upload of a version. The body is the version's manifest."""
        return await self._respond(asyncio.to_thread(self._store.announce, call.path_params["directory"], call.body))

    async def receive(self, call: ApiRequest) -> AnyResponse:
        """Handle `PUT /weights/{directory}/{file}?base=…`: store one file of a version. Without `base`, the body is the
        complete file. With `base`, the body is a delta: the difference to the file of the same name in the version
        directory `base`. The server writes the body to disk while the body arrives.
        """
        directory, name = call.path_params["directory"], call.path_params["file"]
        chunks = body_chunks(call.receive)
        await self._respond(self._store.receive(directory, name, chunks, call.query.get("base")))
        return ApiResponse(b"{}")

    async def serve(self, call: ApiRequest) -> AnyResponse:
        """Handle `POST /serve_weights`: bring a version of the weights into service."""
        request = parse(call.body, ServeWeights)
        async with self._lock:
            return await self._respond(self._serve_version(request))

    async def _serve_version(self, request: ServeWeights) -> ServedVersion:
        if request.broadcast is None:
            return await self._serve_directory(await asyncio.to_thread(self._store.find, request.version))
        if request.broadcast.manifest.label != request.version:
            raise VersionError(
                f"the broadcast has version {request.broadcast.manifest.label}, not version {request.version}"
            )
        return await self._serve(request.broadcast)

    async def _serve_directory(self, directory: Path) -> ServedVersion:
        try:
            served = await self._serve(directory)
        except VersionError:
            await asyncio.to_thread(self._store.remove_refused, directory)
            raise
        await asyncio.to_thread(self._store.remove_old, directory)
        return served

    async def _respond(self, work: Awaitable[object]) -> ApiResponse:
        try:
            return ApiResponse(_encoder.encode(await work))
        except UnknownVersion as error:
            raise RequestError(str(error), status=404) from error
        except ProbeError as error:
            raise RequestError(str(error), status=409) from error
        except VersionError as error:
            raise RequestError(str(error), status=400) from error
