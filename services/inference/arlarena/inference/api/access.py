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
    """Who may use a route. `tokens`: a request must have one of these tokens. If `tokens` is empty, a request needs no
    token. `token_error`: the error message of status 401. `allow_cross_site`: whether web pages of other sites may send
    requests. `allow_same_site`: whether web pages of the same site may send requests. If `allow_same_site` is False,
    every request with the header `Origin` is refused, whatever `allow_cross_site` is. `port`: the only TCP port on
    which the route exists; None: all ports.
    """

    tokens: tuple[str, ...] = ()
    token_error: str = ""
    allow_cross_site: bool = True
    allow_same_site: bool = True
    port: int | None = None

    def check(self, headers: Headers, port: int | None = None) -> None:
        """Refuse a request that has no access. `port`: the server's TCP port of the connection; None on a Unix socket.

        Raises:
            RequestError: status 401 if the request has no valid token; status 403 if it comes from a web page that may
                not send requests; status 404 if the route does not exist on this port.
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
        """True if the header has a valid token. All tokens are compared, each in constant time, so that the response
        time does not reveal a token.
        """
        scheme, _, token = authorization.partition(b" ")
        matches = [hmac.compare_digest(token.strip(), known.encode()) for known in self.tokens]
        return scheme.lower() == b"bearer" and any(matches)


EVERYBODY = Access()


def model_access(settings: InferenceSettings) -> Access:
    """Returns who may use the model routes. If an API key is set, a request needs this key or the administrator's
    token. If no API key is set, requests from web pages of other sites are refused, because a web page of another site
    can send requests to loopback addresses.
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
    """Returns who may use the routes that change the weights in service."""
    token = secret(settings.admin_token)
    message = (
        "this route needs the administrator's token (admin_token): send the header `authorization: Bearer TOKEN` "
        "(ARLArena's programs: ARLARENA_INFERENCE_ADMIN_TOKEN)"
    )
    tokens = () if token is None else (token,)
    return Access(tokens, message, allow_cross_site=False, allow_same_site=False, port=settings.admin_port)
