"""The routes of games. docs/reference/page-api.md describes each route."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.routing import Route

from arlarena.console.page.play.options import PlayOptions
from arlarena.console.page.runs import Catalog
from arlarena.console.page.server.routes import answering
from arlarena.console.page.server.security import PageError, json_response

if TYPE_CHECKING:
    from arlarena.console.page.play.games import PersonGames


class PlayRoutes:
    """The routes of `PersonGames`.

    The first request imports the client of environment servers. With this import at the start, the page would need 1.5
    times as long to start.
    """

    def __init__(self, catalog: Catalog, options: PlayOptions) -> None:
        self._catalog, self._options = catalog, options
        self._games: PersonGames | None = None
        self._lock = asyncio.Lock()

    async def _started(self) -> PersonGames:
        async with self._lock:
            if self._games is None:
                self._games = await asyncio.to_thread(self._start)
        return self._games

    def _start(self) -> PersonGames:
        from arlarena.console.page.play.games import PersonGames

        return PersonGames(self._catalog, self._options)

    async def close(self) -> None:
        """End all games, and stop all environment servers."""
        if self._games is not None:
            await self._games.close()

    def routes(self) -> list[Route]:
        """Returns all routes."""
        return [
            Route("/api/play/environments", answering(self.environments), methods=["GET"]),
            Route("/api/play", answering(self.start), methods=["POST"]),
            Route("/api/play/{game}", answering(self.show), methods=["GET"]),
            Route("/api/play/{game}", answering(self.end), methods=["DELETE"]),
            Route("/api/play/{game}/step", answering(self.step), methods=["POST"]),
        ]

    async def environments(self, _request: Request) -> Any:
        """`GET /api/play/environments`."""
        games = await self._started()
        return {"enabled": self._options.enabled, "environments": games.environments()}

    async def start(self, request: Request) -> Any:
        """`POST /api/play`."""
        games = await self._started()
        return json_response((await games.start(await _body(request))).view(), 201)

    async def show(self, request: Request) -> Any:
        """`GET /api/play/{id}`."""
        return (await self._started()).get(request.path_params["game"]).view()

    async def step(self, request: Request) -> Any:
        """`POST /api/play/{id}/step`."""
        games = await self._started()
        game = games.get(request.path_params["game"])
        await games.step(game, await _body(request))
        return game.view()

    async def end(self, request: Request) -> Any:
        """`DELETE /api/play/{id}`."""
        games = await self._started()
        game = games.get(request.path_params["game"])
        await games.end(game)
        return {"saved": game.saved}


async def _body(request: Request) -> dict[str, Any]:
    """Returns the JSON object of a request. Raises PageError if the body is not a JSON object."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise PageError(400, "bad_request", "the body must be application/json")
    try:
        return msgspec.json.decode(await request.body(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PageError(400, "bad_request", f"the body is not a JSON object: {error}") from error
