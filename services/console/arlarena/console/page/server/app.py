"""The Starlette application of the run page."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from arlarena.console.page.play.options import PlayOptions
from arlarena.console.page.play.routes import PlayRoutes
from arlarena.console.page.runs import Catalog
from arlarena.console.page.server.live import LiveRuns
from arlarena.console.page.server.routes import RunRoutes
from arlarena.console.page.server.security import AccessMiddleware, AccessRules, PageError, error_response, login

STATIC = Path(__file__).resolve().parents[1] / "static"


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PageError)
    return error_response(error)


async def _http_error(_request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return error_response(PageError(status, "not_found" if status == 404 else "bad_request", "no such route"))


async def _unexpected(_request: Request, error: Exception) -> Response:
    return error_response(PageError(500, "internal", type(error).__name__))


async def _index(_request: Request) -> Response:
    return FileResponse(STATIC / "index.html")


def build_app(catalog: Catalog, rules: AccessRules, play: PlayOptions) -> Starlette:
    """Returns the application. When it shuts down, it stops the indexing and the environment servers of games."""
    live, games = LiveRuns(catalog), PlayRoutes(catalog, play)

    async def _login(request: Request) -> Response:
        return login(rules, request)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        catalog.start()
        try:
            yield
        finally:
            await live.close()
            await games.close()
            catalog.close()

    app = Starlette(
        routes=[
            Route("/", _index),
            Route("/login", _login),
            *RunRoutes(catalog, live).routes(),
            *games.routes(),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(AccessMiddleware, rules=rules)],
        exception_handlers={PageError: _api_error, 404: _http_error, 405: _http_error, Exception: _unexpected},
        lifespan=lifespan,
    )
    app.state.live = live
    return app
