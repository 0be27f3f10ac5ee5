"""Protects the run page: checks Host, Origin and token, limits the size of requests, and adds security headers.

Another web site in the same browser must not read or control the page. The check of the Host header prevents DNS
rebinding. The check of the Origin header refuses requests from other sites. If the server has a token, all routes
except `OPEN_ROUTES` require it.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "arlarena_page"
# Maximum size of a request's body in bytes. The largest bodies contain a person's reply in a game.
BODY_BYTES = 1 << 20
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SAFE_METHODS = ("GET", "HEAD")
# Routes that need no token.
OPEN_ROUTES = ("/api/health", "/login")
LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))


class PageError(Exception):
    """An error reply: an HTTP status, a code for programs, and a message for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def json_response(value: object, status: int = 200) -> Response:
    """Returns a reply with `value` as JSON. Caches must not store it. NaN and infinity become null."""
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def error_response(error: PageError) -> Response:
    """Returns the reply for an error."""
    return json_response({"error": {"code": error.code, "message": str(error)}}, error.status)


def is_loopback(host: str) -> bool:
    """True if only this machine can reach a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_name(host: str) -> str:
    """Returns the host in a Host header, in lower case and without port and brackets.

    Returns "" if the header is empty or cannot be parsed.
    """
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


class AccessRules:
    """The rules that a request must satisfy."""

    def __init__(self, host: str, token: str | None, names: Collection[str] = ()) -> None:
        """`host`: the bound address. `token`: None if requests need no token. `names`: further permitted host names."""
        self._token = token
        self._loopback = is_loopback(host)
        self._names = LOOPBACK_NAMES | {name.lower() for name in names} | {host.lower()}

    def check(self, method: str, path: str, headers: Headers, cookie: str) -> None:
        """Check the headers of a request. `cookie`: the value of the cookie `COOKIE`, or "".

        Raises:
            PageError: the Host header, the origin or the token is not accepted.
        """
        name = host_name(headers.get("host", ""))
        if name not in self._names and (self._loopback or not _is_address(name)):
            raise PageError(
                403, "forbidden", "the Host header does not name this server (option --allow-host adds names)"
            )
        if method not in SAFE_METHODS:
            self._check_origin(headers)
        if self._token is None or path in OPEN_ROUTES:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else cookie
        if not self.accepts(given):
            raise PageError(
                401,
                "unauthorized",
                "the token is missing or wrong: open /login?token=TOKEN, or send Authorization: Bearer TOKEN",
            )

    @staticmethod
    def _check_origin(headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            raise PageError(403, "forbidden", "the Origin header names another site")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise PageError(403, "forbidden", "the request comes from another site")

    def accepts(self, token: str) -> bool:
        """Whether `token` is the token of this server."""
        return self._token is not None and hmac.compare_digest(token.encode(), self._token.encode())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class AccessMiddleware:
    """Checks requests with `AccessRules`, limits the size of their bodies, and adds `HEADERS` to replies."""

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > BODY_BYTES:
                raise PageError(413, "too_large", f"the request is longer than {BODY_BYTES} bytes")
            return message

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._rules.check(request.method, scope["path"], request.headers, request.cookies.get(COOKIE, ""))
        except PageError as error:
            await error_response(error)(scope, receive, with_headers)
            return
        await self._app(scope, limited, with_headers)


def login(rules: AccessRules, request: Request) -> Response:
    """Answer `GET /login?token=TOKEN`: set the cookie and redirect to the page.

    Raises:
        PageError: the token is wrong.
    """
    token = request.query_params.get("token", "")
    if not rules.accepts(token):
        raise PageError(401, "unauthorized", "the token is wrong")
    response = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure)
    return response
