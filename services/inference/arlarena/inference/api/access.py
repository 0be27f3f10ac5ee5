"""Who may call a route: a bearer token where one is set, and no pages of other sites in somebody's browser."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from arlarena.inference.api.errors import RequestError
from arlarena.inference.settings import InferenceSettings, secret

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Access:
    """`tokens`: one of them has to come with a request; without any, everybody may call. `no_token`: the message of the
    401. `any_page`: whether pages of other sites may call; `own_page`: whether pages of this server's address may.
    """

    tokens: tuple[str, ...] = ()
    no_token: str = ""
    any_page: bool = True
    own_page: bool = True

    def check(self, headers: Headers) -> None:
        """Refuse a request.

        Raises:
            RequestError: 401 without a token, 403 from a page in a browser.
        """
        given = dict(headers)
        site = given.get(b"sec-fetch-site", b"")
        if (not self.own_page and (b"origin" in given or site == b"same-site")) or (
            not self.any_page and site == b"cross-site"
        ):
            message = "this route does not answer pages in a browser (headers Origin, Sec-Fetch-Site): call it directly"
            raise RequestError(message, status=403)
        if self.tokens and not self._bears(given.get(b"authorization", b"")):
            raise RequestError(self.no_token, status=401)

    def _bears(self, authorization: bytes) -> bool:
        """Whether it is one of the tokens; takes as long for each of them, whatever is given."""
        scheme, _, token = authorization.partition(b" ")
        same = [hmac.compare_digest(token.strip(), known.encode()) for known in self.tokens]
        return scheme.lower() == b"bearer" and any(same)


EVERYBODY = Access()


def model_access(settings: InferenceSettings) -> Access:
    """Of the routes that compute: the API key, or the administrator's token, which allows more. Without a key, no pages
    of other sites: a browser sends their requests to this machine's own addresses.
    """
    key, admin = secret(settings.api_key), secret(settings.admin_token)
    if key is None:
        return Access(any_page=False)
    message = (
        "this server needs an API key: send the header `authorization: Bearer KEY`, in OpenAI's SDK by api_key or "
        "OPENAI_API_KEY, in ARLArena's programs by ARLARENA_INFERENCE_API_KEY"
    )
    return Access((key,) if admin is None else (key, admin), message)


def admin_access(settings: InferenceSettings) -> Access:
    """Of the routes that change what is served."""
    token = secret(settings.admin_token)
    message = (
        "this route needs the administrator's token (admin_token): send the header `authorization: Bearer TOKEN`, in "
        "ARLArena's programs by ARLARENA_INFERENCE_ADMIN_TOKEN"
    )
    return Access(() if token is None else (token,), message, any_page=False, own_page=False)
