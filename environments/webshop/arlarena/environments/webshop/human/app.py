"""The web application of the shop for people.

    GET  /                   the start page, or a redirect to the current page of the episode
    POST /start              open a session at a task, and set its cookie
    GET  /{episode}/{step}   the current page; for other numbers, a redirect to the current page, with a note
    POST /act                play one action; then a redirect to the current page
    POST /next               start the next task; then a redirect to the current page

Every form contains the numbers of its episode and of its step, so that a form is not played twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse

from arlarena.environment.indexed_tasks import index_of
from arlarena.environments.webshop.human.access import problem_of, token_matches
from arlarena.environments.webshop.human.views import message_page, shop_page, start_page
from arlarena.environments.webshop.human.visit_service import NO_WAY_BACK, VisitService
from arlarena.environments.webshop.human.visitors import ShopIsFull, Visitor, Visitors

MAX_BODY_BYTES = 64 << 10
MAX_FIELDS = 16
SEE_OTHER = 303
ENDED = "Your session has ended, or this server was started again. Unfinished tasks are not recorded."

Handler = Callable[[Request], Awaitable[Response]]


class BadForm(ValueError):
    """A form is too large or malformed."""


@dataclass(frozen=True, slots=True)
class HumanApp:
    """The handlers of requests.

    Attributes:
        service: plays and records the episodes.
        visitors: the sessions.
        first: index of the first task.
        token: the token that a person must type at the start; None if no token is needed.
        cookie: the name of the cookie. Each server has another name, because a browser sends the cookies of all ports.
    """

    service: VisitService
    visitors: Visitors
    first: int = 0
    token: str | None = None
    cookie: str = "webshop"

    def asgi(self) -> FastAPI:
        """Return the ASGI application."""
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/", self.home),
            ("GET", "/style.css", self.style),
            ("GET", "/{episode:int}/{step:int}", self.page),
            ("POST", "/start", self.start),
            ("POST", "/act", self.act),
            ("POST", "/next", self.next_task),
        ]
        for method, path, handler in routes:
            app.add_route(path, self._guarded(handler), methods=[method])
        return app

    async def home(self, request: Request) -> Response:
        """Show the start page. If the person has a session, redirect to the current page."""
        visitor = self._visitor(request)
        return self._start_page() if visitor is None else _to_current(visitor)

    async def style(self, request: Request) -> Response:
        """Return the style sheet."""
        css = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
        return Response(css, media_type="text/css")

    async def start(self, request: Request) -> Response:
        """Open a session at the task that the form names."""
        form = await _read_form(request)
        if not token_matches(self.token, form.get("token", "")):
            return self._start_page("The access token is wrong.", 403)
        index, size = index_of(form.get("index", str(self.first))), self.service.size
        if index is None or index >= size:
            return self._start_page(f"The task must be a number from 0 to {size - 1}.", 422)
        visitor = await run_in_threadpool(self.service.start_session, index)
        try:
            cookie = self.visitors.add(visitor)
        except ShopIsFull as error:
            return self._start_page(f"{error}.".capitalize(), 503)
        response = _to_current(visitor)
        response.set_cookie(self.cookie, cookie, httponly=True, samesite="lax", path="/")
        return response

    async def page(self, request: Request) -> Response:
        """Show the current page."""
        visitor = self._visitor(request)
        return (
            self._start_page(ENDED, 404) if visitor is None else await run_in_threadpool(self._show, visitor, request)
        )

    async def act(self, request: Request) -> Response:
        """Play one action."""
        return await self._change(request, self.service.act)

    async def next_task(self, request: Request) -> Response:
        """Start the next task."""
        return await self._change(request, self.service.next_task)

    async def _change(self, request: Request, change: Callable[[Visitor, dict[str, str]], None]) -> Response:
        form, visitor = await _read_form(request), self._visitor(request)
        if visitor is None:
            return self._start_page(ENDED, 409)

        def changed() -> Response:
            with visitor.lock:
                change(visitor, form)
                return _to_current(visitor)

        return await run_in_threadpool(changed)

    def _show(self, visitor: Visitor, request: Request) -> Response:
        with visitor.lock:
            if request.url.path != _path(visitor):
                visitor.note = visitor.note or NO_WAY_BACK
                return _to_current(visitor)
            return HTMLResponse(shop_page(self.service.showing(visitor)))

    def _visitor(self, request: Request) -> Visitor | None:
        return self.visitors.find(request.cookies.get(self.cookie))

    def _start_page(self, note: str = "", status: int = 200) -> Response:
        service = self.service
        page = start_page(service.split, self.first, service.size, token=self.token is not None, note=note)
        return HTMLResponse(page, status)

    def _guarded(self, handler: Handler) -> Handler:
        """Wrap a handler. The result refuses requests of other origins and malformed forms. It sets the headers of all
        responses.
        """

        async def guarded(request: Request) -> Response:
            if problem := problem_of(request, has_token=self.token is not None):
                response: Response = HTMLResponse(message_page("Refused", problem), 403)
            else:
                try:
                    response = await handler(request)
                except BadForm as error:
                    response = HTMLResponse(message_page("This form cannot be read", str(error)), 400)
            images = " https: http:" if self.service.remote else ""
            response.headers.update(_HEADERS | {"content-security-policy": _POLICY.replace("data:", f"data:{images}")})
            return response

        return guarded


# Pages have no scripts, and load nothing from other servers except the images of `--images`. The referrer policy is
# `same-origin`. With `no-referrer`, browsers would not send the Origin of a form, and `access` checks this Origin.
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


def _path(visitor: Visitor) -> str:
    return f"/{visitor.number}/{visitor.visit.episode.steps}"


def _to_current(visitor: Visitor) -> Response:
    return RedirectResponse(_path(visitor), SEE_OTHER)


async def _read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form. Bytes that are not UTF-8 are replaced.

    Raises:
        BadForm: the form is too large, or has too many fields.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise BadForm(f"It is larger than {MAX_BODY_BYTES} bytes.")
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise BadForm(f"It has more than {MAX_FIELDS} fields.") from error
    return dict(pairs)
