"""The ASGI application: routes, WebSocket, error replies, and a background task that ends expired sessions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.routing import Route as StarletteRoute

from arlarena.env_server.api.json_codec import error_reply
from arlarena.env_server.api.openapi import API_VERSION, document
from arlarena.env_server.api.routes import ROUTES, Route, answer
from arlarena.env_server.api.websocket import serve
from arlarena.env_server.errors import ApiError
from arlarena.env_server.sessions.release_memory import PeakTracker, release
from arlarena.env_server.sessions.service import EnvironmentService
from arlarena.proto.text.names import known_names

SOCKET_PATH = "/ws"
FREQUENT_PATHS = ("/step", "/reset", "/v1/batch")

Endpoint = Callable[[Request], Awaitable[Response]]


def _endpoint(route: Route, service: EnvironmentService) -> Endpoint:
    """Returns the Starlette endpoint of a route. The endpoint counts requests and errors, and creates error replies."""

    async def endpoint(request: Request) -> Response:
        try:
            response = await answer(route, service, request)
        except ApiError as error:
            service.metrics.errors.labels(error.code).inc()
            response = error_reply(error)
        except Exception as error:
            response = _unexpected(service, route, error)
        service.metrics.requests.labels(route.path, str(response.status_code)).inc()
        return response

    return endpoint


def _unexpected(service: EnvironmentService, route: Route, error: Exception) -> Response:
    """Count an unexpected error and log it with its stack trace. Returns an error reply without the stack trace."""
    service.metrics.errors.labels("internal").inc()
    service.log.error("request_failed", route=route.path, error=repr(error), stack=traceback.format_exc())
    message = f"{route.method} {route.path} failed: {type(error).__name__}; the server's log has the details"
    return error_reply(ApiError(500, "internal", message, "infra", True))


def _allowed(request: Request) -> str:
    """Returns the methods that the request's path supports, for the header Allow (RFC 9110, section 10.2.1)."""
    methods: set[str] = set()
    for route in request.app.router.routes:
        if isinstance(route, StarletteRoute) and route.matches(request.scope)[0] is Match.PARTIAL:
            methods |= route.methods or set()
    return ", ".join(sorted(methods))


async def _http_error(request: Request, error: Exception) -> Response:
    """Returns the error reply for an HTTP error of Starlette, such as an unknown path."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    path = request.url.path
    if status == 404 and path == SOCKET_PATH:
        return error_reply(ApiError(404, "not_found", f"{path} is a WebSocket: connect with ws:// or wss://"))
    if status == 404:
        paths = known_names(path, [*dict.fromkeys(route.path for route in ROUTES), SOCKET_PATH])
        return error_reply(ApiError(404, "not_found", f"no route {path}; {paths}; /docs describes the routes"))
    if status == 405:
        allowed = _allowed(request)
        message = f"{path} supports {allowed}, not {request.method}"
        response = error_reply(ApiError(405, "method_not_allowed", message))
        response.headers["Allow"] = allowed
        return response
    return error_reply(ApiError(status, "http_error", str(getattr(error, "detail", error))))


async def _maintain(service: EnvironmentService) -> None:
    """Maintain the server every `reap_interval_s` seconds, until this task is cancelled.

    - End expired sessions and delete expired snapshots.
    - If the token file has changed, read it again.
    - If this process is one of several workers, and all its threads have been lost for `lost_threads_timeout_s` seconds
      (see `ServerHealth`), stop this worker.
    - If the number of sessions has dropped far below its peak, return free memory to the system.
    """
    peak = PeakTracker()
    while True:
        await asyncio.sleep(service.settings.reap_interval_s)
        service.store.reap()
        service.snapshots.reap()
        service.access.refresh()
        if service.health.needs_restart() and service.peers is not None and not service.store.draining:
            service.log.error("threads_lost", **service.health.threads())
            os.kill(os.getpid(), signal.SIGTERM)  # the parent process restarts this worker
        if peak.has_dropped(len(service.store)):
            release()


def create_app(service: EnvironmentService) -> FastAPI:
    """Returns the ASGI application of one environment."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        maintenance = asyncio.create_task(_maintain(service))
        yield
        maintenance.cancel()
        service.close()
        for members in (service.peers, service.pods):
            if members is not None:
                await members.close()

    title = f"ARLArena environment: {service.info.name}"
    app = FastAPI(title=title, version=API_VERSION, lifespan=lifespan)
    app.state.service = service
    for route in ROUTES:
        app.router.add_route(route.path, _endpoint(route, service), methods=[route.method], include_in_schema=False)
    app.router.add_websocket_route(SOCKET_PATH, serve)
    # Routes are matched in order, so the most frequent routes come first.
    app.router.routes.sort(key=lambda route: getattr(route, "path", None) not in FREQUENT_PATHS)
    app.add_exception_handler(HTTPException, _http_error)

    def openapi() -> dict[str, Any]:
        return document(title, ROUTES)

    app.openapi = openapi  # type: ignore[method-assign]
    return app
