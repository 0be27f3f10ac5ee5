"""HTTP requests to one service over a connection pool, with explicit timeouts and typed errors.

The client does not trust the service: too large responses, compressed responses and redirects are errors.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Literal, Self

import aiohttp
import msgspec

from arlarena.client.arguments import valid_integer, valid_seconds, valid_text
from arlarena.client.bounded import IDENTITY, AnswerRefused, read_bounded
from arlarena.client.errors import AtCapacity, ProtocolError, Refused, Unavailable
from arlarena.proto.backoff import pauses
from arlarena.proto.http.addresses import service_url

JSON_HEADERS = {"content-type": "application/json", **IDENTITY}
# Maximum bytes of a response. A batch of 256 observations with one image of 100 KB each has half this size.
MAX_ANSWER_BYTES = 64 << 20
# Maximum number of bytes of a response in an error message.
QUOTE_CHARS = 300
# The first and the longest pause between two attempts of a request, in seconds.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
# The 4xx statuses after which a retry may succeed. After 408, the server did not execute the request: it arrived too
# slowly, for example because a machine was overloaded.
_RETRYABLE = (408, 429)

Service = Literal["environment server", "policy server"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts in seconds. `connect_s`: for opening a connection. `request_s`: for a request and its response."""

    connect_s: float = 5.0
    request_s: float = 60.0

    def __post_init__(self) -> None:
        """Validate the timeouts.

        Raises:
            TypeError, ValueError: a timeout is not a number above 0.
        """
        valid_seconds("connect_s", self.connect_s, positive=True)
        valid_seconds("request_s", self.request_s, positive=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of a response with a status below 500.

    `request`: method and URL of the request, for messages. `url`: base URL of the service. `service`: the kind of
    service that the client expects at `url`, or None.
    """

    status: int
    body: bytes
    request: str
    url: str = ""
    service: Service | None = None

    def refusal(self) -> Refused:
        """Returns the error for this response. The message says if `url` is the address of the wrong service."""
        actual = service_of(self.body)
        if self.service is not None and actual not in (None, self.service):
            names = {"environment server": "an environment server", "policy server": "a policy server"}
            return Refused(
                f"{self.url} is {names[actual]}, not {names[self.service]}: {self.request} was refused with "
                f"{self.status}",
                self.status,
            )
        return Refused(f"{self.request} was refused with {self.status}: {quote(self.body)}", self.status)

    def malformed(self, reason: object) -> ProtocolError:
        """Returns the error for this response if it violates the API. `reason`: how it violates the API."""
        return ProtocolError(f"{self.request} returned an invalid response ({reason}): {quote(self.body)}")


class _EnvironmentServerError(msgspec.Struct):
    code: str
    message: str
    blame: str


class _OpenAiError(msgspec.Struct):
    message: str
    type: str


class _PolicyServerError(msgspec.Struct):
    error: _OpenAiError


_ERROR_FORMATS: dict[Service, type] = {
    "environment server": _EnvironmentServerError,
    "policy server": _PolicyServerError,
}


def service_of(error: bytes) -> Service | None:
    """Returns the kind of service that sent the response body `error`. Returns None if its format is unknown."""
    for service, error_format in _ERROR_FORMATS.items():
        try:
            msgspec.json.decode(error, type=error_format)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
        return service
    return None


def quote(body: bytes) -> str:
    """Returns at most the first `QUOTE_CHARS` bytes of a response body as text, for error messages."""
    text = body[:QUOTE_CHARS].decode(errors="replace")
    return text + "…" if len(body) > QUOTE_CHARS else text


def _retry_after(headers: Mapping[str, str]) -> float:
    """Returns the Retry-After header in seconds, at least 0. Returns 1 if it is missing or not a number."""
    try:
        return max(0.0, float(headers.get("Retry-After", "1")))
    except ValueError:
        return 1.0


class AsyncClosing(ABC):
    """Base class of clients. The end of an `async with` block closes the client."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""


class HttpTransport(AsyncClosing):
    """Sends requests to one base URL. The first request opens a connection pool, and `close` closes the pool."""

    def __init__(
        self,
        url: str,
        timeouts: Timeouts,
        token: str | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        service: Service | None = None,
    ) -> None:
        """`url`: base URL of the service. `token`: bearer token. `max_answer_bytes`: maximum size of a response body.
        `service`: the kind of service that the caller expects at `url`, for error messages.

        Raises:
            TypeError, ValueError: an argument is invalid. The message contains the argument's name.
        """
        if not isinstance(timeouts, Timeouts):
            raise TypeError(f"timeouts must be Timeouts(connect_s=…, request_s=…), not {timeouts!r}")
        if token is not None:
            valid_text("token", token)
        self.url = service_url(url)
        self.timeouts = timeouts
        self.service: Service | None = service
        self.max_answer_bytes = valid_integer("max_answer_bytes", max_answer_bytes, least=1)
        self._headers = JSON_HEADERS | ({"authorization": f"Bearer {token}"} if token else {})
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections. Pending requests raise `Unavailable`."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            # limit=0 means no limit. With aiohttp's default limit of 100 connections, concurrent requests would wait.
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        max_answer_bytes: int | None = None,
        retries: int = 0,
        base: str | None = None,
    ) -> Answer:
        """Send a request. Returns the response, which may be an error: its status is below 500, but not 408 or 429.

        `timeout_s`: time limit of each attempt; default: `timeouts.request_s`. `max_answer_bytes`: maximum size of the
        response body; default: the transport's limit. `retries`: maximum number of retries while the service is
        unavailable; use retries only for idempotent requests. `base`: base URL without a final slash; default: `url`.

        Raises:
            AtCapacity: the status is 429 or 503, and the response has a Retry-After header.
            Unavailable: there is no connection or no response in time, or the status is 408, 429 or 5xx.
            ProtocolError: the response is larger than `max_answer_bytes`, is compressed, or is a redirect.
        """
        for pause in islice(pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S), retries):
            try:
                return await self._request(method, base or self.url, path, body, timeout_s, headers, max_answer_bytes)
            except Unavailable:
                await asyncio.sleep(pause)
        return await self._request(method, base or self.url, path, body, timeout_s, headers, max_answer_bytes)

    async def _request(
        self,
        method: str,
        base: str,
        path: str,
        body: bytes | None,
        timeout_s: float | None,
        headers: Mapping[str, str] | None,
        max_answer_bytes: int | None,
    ) -> Answer:
        """Send a request once. For the result and the errors, see `request`."""
        limit = self.timeouts.request_s if timeout_s is None else timeout_s
        request = f"{method} {base}{path}"
        timeout = aiohttp.ClientTimeout(total=limit, connect=self.timeouts.connect_s)
        sent = {**self._headers, **(headers or {})}
        try:
            pool = self._pool()
            async with pool.request(
                method, base + path, data=body, headers=sent, timeout=timeout, allow_redirects=False
            ) as reply:
                received = await read_bounded(reply, max_answer_bytes or self.max_answer_bytes)
                answer = Answer(reply.status, received, request, base, self.service)
                received_headers = reply.headers
        except TimeoutError as error:
            raise Unavailable(f"{request}: no answer within {limit:g} s") from error
        except AnswerRefused as error:
            raise ProtocolError(f"{request}: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{request}: {str(error) or type(error).__name__}") from error
        if answer.status in _RETRYABLE or answer.status >= 500:
            message = f"{request} failed with {answer.status}: {quote(answer.body)}"
            if answer.status in (429, 503) and "Retry-After" in received_headers:
                raise AtCapacity(message, _retry_after(received_headers))
            raise Unavailable(message, answer.status)
        return answer
