"""The ASGI application of a process with an embedded engine (the torch engine of this package). The port is open before
the model is loaded. Until the model is loaded, all routes except `/version` answer 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from arlarena.inference.api.access import EVERYBODY, Access, admin_access, model_access
from arlarena.inference.api.asgi import MODEL_ROUTE, AnyResponse, ApiRequest, Endpoint
from arlarena.inference.api.errors import BUSY_RETRY_S, LOADING_RETRY_S, RequestError
from arlarena.inference.settings import InferenceSettings
from arlarena.proto.telemetry import Logger

if TYPE_CHECKING:  # `routes` imports torch, which takes seconds. So `_load` imports `routes`, after the port is open.
    from arlarena.inference.embedded.serving.routes import Serving

VERSION = "0.1.0"

MODEL_ROUTES = (
    ("POST", "/inference/v1/generate"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", MODEL_ROUTE),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
)
STATE_ROUTES = (  # everybody can use these routes
    ("GET", "/metrics"),
    ("GET", "/weight_info"),
)
UPLOAD_ROUTE = ("PUT", "/weights/{directory}/{file}")  # no body limit: the body is a weight file
ADMIN_ROUTES = (
    ("POST", "/serve_weights"),
    ("PUT", "/weights/{directory}"),
    UPLOAD_ROUTE,
    ("POST", "/reset_prefix_cache"),
)


class InferenceServer:
    """The state of the process. `stop`: a function that ends the process. This class calls `stop` if the model cannot
    be loaded or the engine fails. `serving`: the loaded model and its routes; None while the model is loading.
    `failure`: the reason why the process ends; None if nothing has failed.
    """

    def __init__(self, settings: InferenceSettings, log: Logger, stop: Callable[[], None]) -> None:
        self.settings = settings
        self.log = log
        self.serving: Serving | None = None
        self.failure: str | None = None
        self._stop = stop
        self._loading: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Load the model in the background. Stop the engine at shutdown."""
        self._loading = asyncio.create_task(self._load())
        try:
            yield
        finally:
            await asyncio.gather(self._loading, return_exceptions=True)
            if self.serving is not None:
                await asyncio.to_thread(self.serving.engine.stop)

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()

        def on_death(error: BaseException) -> None:
            loop.call_soon_threadsafe(self._fail, f"the engine's thread ended: {error!r}")

        def load() -> Serving:
            from arlarena.inference.embedded.serving.routes import open_serving

            return open_serving(self.settings, loop, self.log, on_death)

        try:
            self.serving = await asyncio.to_thread(load)
        except Exception as error:
            self._fail(str(error) if isinstance(error, ValueError) else repr(error))

    def _fail(self, why: str) -> None:
        self.failure = why
        self.log.error("cannot_serve", reason=why)
        self._stop()

    def route(self, method: str, path: str, access: Access) -> Route:
        """Returns the route for `method` and `path`. The route answers 503 until the model is loaded."""

        async def handler(call: ApiRequest) -> AnyResponse:
            return await self.ready(LOADING_RETRY_S).routes[method, path](call)

        limit = None if (method, path) == UPLOAD_ROUTE else self.settings.max_body_mb << 20
        return Route(path, Endpoint(handler, limit, self.log, access), methods=[method])

    def ready(self, retry_after_s: int = BUSY_RETRY_S) -> Serving:
        """Returns the loaded model and its routes. `retry_after_s`: seconds in the header `Retry-After` of the error.

        Raises:
            RequestError: status 503 if the model is not loaded yet, or if the engine has ended.
        """
        if self.serving is None:
            message = "the model is loading: wait until GET /ready answers 200"
            raise RequestError(self.failure or message, status=503, retry_after_s=retry_after_s)
        if not self.serving.engine.alive:
            raise RequestError(self.failure or "the engine has stopped", status=503, retry_after_s=retry_after_s)
        return self.serving

    async def health(self, request: Request) -> Response:
        """Returns 200 if the model is loaded and the engine's thread is alive, 503 otherwise."""
        serving = self.ready()
        return _json({"status": "ok", "weight_version": serving.engine.version})

    async def readiness(self, request: Request) -> Response:
        """Returns 200 if the model is loaded and the engine's thread is alive, 503 otherwise."""
        self.ready()
        return _json({"status": "ready"})

    async def version(self, request: Request) -> Response:
        """Returns the version of this server."""
        return _json({"version": VERSION, "engine": "embedded"})


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def request_error(request: Request, error: Exception) -> Response:
    """Returns the error response for a `RequestError` that was raised outside an `Endpoint`."""
    assert isinstance(error, RequestError)
    return Response(error.body(), error.status, error.headers(), media_type="application/json")


async def http_error(request: Request, error: Exception) -> Response:
    """Returns the response for an error of Starlette (such as 404 or 405), in OpenAI's error format."""
    assert isinstance(error, HTTPException)
    route = f"{request.method} {request.url.path}"
    reasons = {
        404: f"there is no route {route}; OpenAI's routes are /v1/chat/completions, /v1/completions and /v1/models",
        405: f"{route}: this route accepts only {(error.headers or {}).get('Allow', 'another method')}",
    }
    status = error.status_code
    converted = RequestError(reasons.get(status, f"{route}: {error.detail}"), status=status)
    return Response(converted.body(), converted.status, error.headers, media_type="application/json")


def create_app(server: InferenceServer) -> Starlette:
    """Build the ASGI application of a server."""
    groups = (
        (MODEL_ROUTES, model_access(server.settings)),
        (STATE_ROUTES, EVERYBODY),
        (ADMIN_ROUTES, admin_access(server.settings)),
    )
    routes = [server.route(method, path, access) for paths, access in groups for method, path in paths]
    routes += [Route("/health", server.health), Route("/ready", server.readiness), Route("/version", server.version)]
    return Starlette(
        routes=routes,
        lifespan=server.lifespan,
        exception_handlers={RequestError: request_error, HTTPException: http_error},
    )
