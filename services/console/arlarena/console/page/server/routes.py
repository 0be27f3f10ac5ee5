"""The routes that read runs. docs/reference/page-api.md describes each route."""

from __future__ import annotations

import functools
import inspect
import sqlite3
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from arlarena.console.page.index import queries
from arlarena.console.page.index.queries import BadQuery, integer
from arlarena.console.page.reading.run_files import DamagedFile
from arlarena.console.page.runs import Catalog, PageRun
from arlarena.console.page.server import curves
from arlarena.console.page.server.live import LiveRuns
from arlarena.console.page.server.security import PageError, json_response
from arlarena.console.page.views.episode import episode_view, turn_view, visits_view
from arlarena.console.page.views.groups import behaviour_view, groups_view
from arlarena.console.page.views.records import LoadedEpisode

Handler = Callable[[Request], Any]


def answering(handler: Handler) -> Callable[[Request], Any]:
    """Returns an endpoint that replies with the result of `handler` as JSON.

    Converts errors of `handler` to `PageError`. If `handler` is not a coroutine function, it runs in a thread, because
    it reads files.
    """

    @functools.wraps(handler)
    async def endpoint(request: Request) -> Response:
        try:
            if inspect.iscoroutinefunction(handler):
                result = await handler(request)
            else:
                result = await run_in_threadpool(handler, request)
        except BadQuery as error:
            raise PageError(400, "bad_request", str(error)) from error
        except DamagedFile as error:
            raise PageError(500, "damaged", str(error)) from error
        except sqlite3.Error as error:
            raise PageError(503, "unavailable", f"the index cannot be read: {error}") from error
        return result if isinstance(result, Response) else json_response(result)

    return endpoint


class RunRoutes:
    """The routes that read the runs of a catalog."""

    def __init__(self, catalog: Catalog, live: LiveRuns) -> None:
        self._catalog, self._live = catalog, live

    def routes(self) -> list[Route]:
        """Returns all routes."""
        handlers: dict[str, Handler] = {
            "/api/health": self.health,
            "/api/runs": self.runs,
            "/api/metrics": self.metrics,
            "/api/series": self.series,
            "/api/runs/{run}": self.run,
            "/api/runs/{run}/alarms": self.alarms,
            "/api/runs/{run}/steps": self.steps,
            "/api/runs/{run}/steps/{step}/groups": self.groups,
            "/api/runs/{run}/episodes": self.episodes,
            "/api/runs/{run}/facets": self.facets,
            "/api/runs/{run}/episodes/{episode}": self.episode,
            "/api/runs/{run}/episodes/{episode}/turns/{turn}": self.turn,
            "/api/runs/{run}/episodes/{episode}/turns/{turn}/visits": self.visits,
            "/api/runs/{run}/behaviour": self.behaviour,
        }
        found = [Route(path, answering(handler), methods=["GET"]) for path, handler in handlers.items()]
        return [*found, Route("/api/events", self.events, methods=["GET"])]

    def _run(self, request: Request) -> PageRun:
        name = request.path_params["run"]
        if (run := self._catalog.get(name)) is None:
            raise PageError(404, "not_found", f"no run {name[:100]!r}")
        return run

    def _runs(self, request: Request) -> list[PageRun]:
        """Returns the runs whose ids are in the query parameter `runs`. Without this parameter, returns all runs.

        Raises:
            PageError: there is no run with one of the ids.
        """
        if not (text := request.query_params.get("runs")):
            return self._catalog.runs()
        found = [(name, self._catalog.get(name)) for name in text.split(",")]
        for name, run in found:
            if run is None:
                raise PageError(404, "not_found", f"no run {name[:100]!r}")
        return [run for _, run in found if run is not None]

    def _episode(self, request: Request) -> tuple[PageRun, LoadedEpisode]:
        run, key = self._run(request), request.path_params["episode"]
        if (loaded := run.records.episode(key)) is None:
            raise PageError(404, "not_found", f"no episode {key[:100]!r}")
        return run, loaded

    def _turn(self, request: Request) -> tuple[PageRun, LoadedEpisode, int]:
        run, loaded = self._episode(request)
        turn = integer(request.path_params, "turn", 0, 0, 10**9)
        if turn >= len(loaded.trajectory.turns):
            raise PageError(404, "not_found", f"no turn {turn}: the episode has {len(loaded.trajectory.turns)} turns")
        return run, loaded, turn

    def health(self, _request: Request) -> Any:
        """`GET /api/health`."""
        return {"status": "ok", "version": version("arlarena-console")}

    def runs(self, _request: Request) -> Any:
        """`GET /api/runs`."""
        self._catalog.rescan()
        return {"runs": [run.brief() for run in self._catalog.runs()]}

    def run(self, request: Request) -> Any:
        """`GET /api/runs/{run}`."""
        return self._run(request).detail()

    def alarms(self, request: Request) -> Any:
        """`GET /api/runs/{run}/alarms`."""
        limit = integer(request.query_params, "limit", 200, 0, queries.MAX_LIMIT)
        total, alarms = self._run(request).placed_alarms(limit)
        return {"total": total, "alarms": alarms}

    def metrics(self, request: Request) -> Any:
        """`GET /api/metrics`."""
        return {"metrics": curves.metric_list(self._runs(request))}

    def series(self, request: Request) -> Any:
        """`GET /api/series`."""
        given = request.query_params
        x = given.get("x", "step")
        if x not in curves.X_UNITS:
            raise BadQuery(f"x must be one of {', '.join(curves.X_UNITS)}")
        metrics = [name for name in given.get("metrics", "").split(",") if name]
        return curves.series(self._runs(request), metrics, x, integer(given, "points", 1000, 10, 5000))

    def steps(self, request: Request) -> Any:
        """`GET /api/runs/{run}/steps`."""
        return queries.steps(self._run(request).database, request.query_params)

    def groups(self, request: Request) -> Any:
        """`GET /api/runs/{run}/steps/{step}/groups`."""
        run, step = self._run(request), integer(request.path_params, "step", 0, 0, 10**12)
        found = groups_view(run.database, run.records, step)
        if found is None:
            raise PageError(404, "not_found", f"no group of step {step} is recorded")
        return found

    def episodes(self, request: Request) -> Any:
        """`GET /api/runs/{run}/episodes`."""
        run = self._run(request)
        return queries.episodes(run.database, request.query_params) | {"indexed": run.index_state()["progress"]}

    def facets(self, request: Request) -> Any:
        """`GET /api/runs/{run}/facets`."""
        return queries.facets(self._run(request).database)

    def episode(self, request: Request) -> Any:
        """`GET /api/runs/{run}/episodes/{id}`."""
        run, loaded = self._episode(request)
        neighbours = queries.neighbours(run.database, loaded.row)
        return episode_view(loaded) | neighbours

    def turn(self, request: Request) -> Any:
        """`GET /api/runs/{run}/episodes/{id}/turns/{turn}`."""
        run, loaded, turn = self._turn(request)
        return turn_view(loaded, turn, run.tokens)

    def visits(self, request: Request) -> Any:
        """`GET /api/runs/{run}/episodes/{id}/turns/{turn}/visits`."""
        run, loaded, turn = self._turn(request)
        siblings = queries.neighbours(run.database, loaded.row)["siblings"]
        return visits_view(loaded, turn, run.gamma(), siblings)

    def behaviour(self, request: Request) -> Any:
        """`GET /api/runs/{run}/behaviour`."""
        run = self._run(request)
        return behaviour_view(run.files, run.database)

    async def events(self, request: Request) -> Response:
        """`GET /api/events`."""
        if self._live.is_full:
            raise PageError(503, "unavailable", "too many pages are connected")
        runs = [run.id for run in self._runs(request)] if request.query_params.get("runs") else None
        stream: AsyncIterator[bytes] = self._live.stream(runs)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, headers=headers, media_type="text/event-stream")
