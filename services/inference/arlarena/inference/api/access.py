"""Access control of routes: bearer tokens, and protection against requests from web pages."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from arlarena.inference.api.errors import RequestError
from arlarena.inference.settings import InferenceSettings, secret

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Access:
    """The access rules of a route.

    `tokens`: the valid tokens; if empty, a request needs no token. `token_error`: the error message of status 401.
    `allow_cross_site`: True if the route accepts requests from web pages of other sites. `allow_same_site`: True if the
    route accepts requests from web pages of the same site. If `allow_same_site` is False, the route also refuses every
    request with the header `Origin`, even if `allow_cross_site` is True. `port`: the TCP port that serves the route;
    None: every port.
    """

    tokens: tuple[str, ...] = ()
    token_error: str = ""
    allow_cross_site: bool = True
    allow_same_site: bool = True
    port: int | None = None

    def check(self, headers: Headers, port: int | None = None) -> None:
        """Check the access rules for one request. `port`: the server's TCP port that received the request; None for a
        Unix socket.

        Raises:
            RequestError: status 401 if the request needs a token and has no valid token; status 403 if the request
                comes from a web page and the route refuses this page; status 404 if another port serves the route.
        """
        if self.port is not None and port is not None and port != self.port:
            raise RequestError("this route is served on another port (admin_port)", status=404)
        given = dict(headers)
        site = given.get(b"sec-fetch-site", b"")
        if (not self.allow_same_site and (b"origin" in given or site == b"same-site")) or (
            not self.allow_cross_site and site == b"cross-site"
        ):
            message = (
                "this route refuses requests from web pages (headers Origin and Sec-Fetch-Site): send the request from "
                "a program"
            )
            raise RequestError(message, status=403)
        if self.tokens and not self._has_valid_token(given.get(b"authorization", b"")):
            raise RequestError(self.token_error, status=401)

    def _has_valid_token(self, authorization: bytes) -> bool:
        """True if `authorization`, the value of the header `Authorization`, is `Bearer TOKEN` with a valid token. Each
        comparison with a valid token takes constant time. Otherwise, the response time could reveal a valid token.
        """
        scheme, _, token = authorization.partition(b" ")
        matches = [hmac.compare_digest(token.strip(), known.encode()) for known in self.tokens]
        return scheme.lower() == b"bearer" and any(matches)


EVERYBODY = Access()


def model_access(settings: InferenceSettings) -> Access:
    """Returns the access rules of the model routes. If an API key is set, a request needs the API key or the
    administrator's token. If no API key is set, the routes refuse requests from web pages of other sites. (In a browser
    on this machine, a page of any site can send requests to loopback addresses.)
    """
    key, admin = secret(settings.api_key), secret(settings.admin_token)
    if key is None:
        return Access(allow_cross_site=False)
    message = (
        "this server needs an API key: send the header `authorization: Bearer KEY` (OpenAI's SDK: api_key or "
        "OPENAI_API_KEY; ARLArena's programs: ARLARENA_INFERENCE_API_KEY)"
    )
    return Access((key,) if admin is None else (key, admin), message)


def admin_access(settings: InferenceSettings) -> Access:
    """Returns the access rules of the admin routes, such as the routes that change the weights in service."""
    token = secret(settings.admin_token)
    message = (
        "this route needs the administrator's token (admin_token): send the header `authorization: Bearer TOKEN` "
        "(ARLArena's programs: ARLARENA_INFERENCE_ADMIN_TOKEN)"
    )
    tokens = () if token is None else (token,)
    return Access(tokens, message, allow_cross_site=False, allow_same_site=False, port=settings.admin_port)
