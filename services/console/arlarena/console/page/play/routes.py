"""The routes of games. docs/reference/page-api.md describes each of them."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.routing import Route

from arlarena.console.page.play.games import PersonGames
from arlarena.console.page.server.routes import answering
from arlarena.console.page.server.security import PageError, json_response


class PlayRoutes:
    """The routes of `PersonGames`."""

    def __init__(self, games: PersonGames) -> None:
        self._games = games

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
        return {"enabled": self._games.options.enabled, "environments": self._games.environments()}

    async def start(self, request: Request) -> Any:
        """`POST /api/play`."""
        return json_response((await self._games.start(await _body(request))).view(), 201)

    async def show(self, request: Request) -> Any:
        """`GET /api/play/{id}`."""
        return self._games.get(request.path_params["game"]).view()

    async def step(self, request: Request) -> Any:
        """`POST /api/play/{id}/step`."""
        game = self._games.get(request.path_params["game"])
        await self._games.step(game, await _body(request))
        return game.view()

    async def end(self, request: Request) -> Any:
        """`DELETE /api/play/{id}`."""
        game = self._games.get(request.path_params["game"])
        await self._games.end(game)
        return {"saved": game.saved}


async def _body(request: Request) -> dict[str, Any]:
    """Returns the JSON object of a request. Raises PageError."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise PageError(400, "bad_request", "the body must be application/json")
    try:
        return msgspec.json.decode(await request.body(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PageError(400, "bad_request", f"the body is not a JSON object: {error}") from error
