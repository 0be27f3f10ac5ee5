"""One HTTP connection pool to one service: bytes out, bytes in, errors by kind, every time-out explicit.

Services are not trusted: answers are of limited size and not compressed, and redirects are not followed.
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

from arlarena.client.arguments import number_of, seconds_of, text_of
from arlarena.client.bounded import IDENTITY, AnswerRefused, read_bounded
from arlarena.client.errors import AtCapacity, ProtocolError, Refused, Unavailable
from arlarena.proto.backoff import pauses
from arlarena.proto.http.addresses import service_url

JSON_HEADERS = {"content-type": "application/json", **IDENTITY}
# A batch's answer with a frame of some 100 KB in each of 256 observations is half as large.
MAX_ANSWER_BYTES = 64 << 20
# An answer quoted in an error message is cut here: enough to recognise it, short enough for one log line.
QUOTE_CHARS = 300
# Between two attempts at a request, in seconds.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0

Service = Literal["environment server", "policy server"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `connect_s`: to open a connection. `request_s`: from sending a request to its whole answer."""

    connect_s: float = 5.0
    request_s: float = 60.0

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            TypeError, ValueError: one is not a number above 0.
        """
        seconds_of("connect_s", self.connect_s, positive=True)
        seconds_of("request_s", self.request_s, positive=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of an answer below 500. `service`: what should have answered at `url`, if that is known."""

    status: int
    body: bytes
    what: str
    url: str = ""
    service: Service | None = None

    def refusal(self) -> Refused:
        """This answer as an error, which says so where another kind of service gave it."""
        found = service_of(self.body)
        if self.service is not None and found not in (None, self.service):
            names = {"environment server": "an environment server", "policy server": "a policy server"}
            return Refused(
                f"{self.url} is {names[found]}, not {names[self.service]}: {self.what} was refused with {self.status}",
                self.status,
            )
        return Refused(f"{self.what} was refused with {self.status}: {quote(self.body)}", self.status)

    def malformed(self, why: object) -> ProtocolError:
        """This answer as a breach of contract."""
        return ProtocolError(f"{self.what} gave an answer that cannot be used ({why}): {quote(self.body)}")


class _OfEnvironments(msgspec.Struct):
    code: str
    message: str
    blame: str


class _OpenAiError(msgspec.Struct):
    message: str
    type: str


class _OfPolicies(msgspec.Struct):
    error: _OpenAiError


_FORMS: dict[Service, type] = {"environment server": _OfEnvironments, "policy server": _OfPolicies}


def service_of(error: bytes) -> Service | None:
    """Which kind of service writes errors in the form of this one; None for another form."""
    for service, form in _FORMS.items():
        try:
            msgspec.json.decode(error, type=form)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
        return service
    return None


def quote(body: bytes) -> str:
    """The beginning of a body, for a message."""
    text = body[:QUOTE_CHARS].decode(errors="replace")
    return text + "…" if len(body) > QUOTE_CHARS else text


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds of a Retry-After header; a date or nonsense counts as one second."""
    try:
        return max(0.0, float(headers.get("Retry-After", "1")))
    except ValueError:
        return 1.0


class AsyncClosing(ABC):
    """What an `async with` block closes at its end."""

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
    """Requests to one base URL. Opens its pool on first use; close it with `close` or `async with`."""

    def __init__(
        self,
        url: str,
        timeouts: Timeouts,
        token: str | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        service: Service | None = None,
    ) -> None:
        """`url`: see `service_url`. `token` is sent as a bearer token. `max_answer_bytes`: of one answer's body.
        `service`: what should be there, for the error where it is another.

        Raises:
            TypeError, ValueError: an argument of another type, or a URL that is no service's address.
        """
        if not isinstance(timeouts, Timeouts):
            raise TypeError(f"timeouts must be Timeouts(connect_s=…, request_s=…), not {timeouts!r}")
        if token is not None:
            text_of("token", token)
        self.url = service_url(url)
        self.timeouts = timeouts
        self.service: Service | None = service
        self.max_answer_bytes = number_of("max_answer_bytes", max_answer_bytes, least=1)
        self._headers = JSON_HEADERS | ({"authorization": f"Bearer {token}"} if token else {})
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections; requests in flight fail as `Unavailable`."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            # limit=0: aiohttp's default of 100 connections would make the 101st episode wait for another one's
            # generation.
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
    ) -> Answer:
        """Send a request. `max_answer_bytes`: where less than usual is enough. `retries`: how often it is sent again
        while the service is unavailable; above 0 only for requests that may be repeated.

        Raises:
            Full: 503 or 429 with a Retry-After header.
            Unavailable: no connection, no answer in time, or any other 5xx or 429.
            ProtocolError: the answer is larger than `max_answer_bytes`, compressed, or a redirect.
        """
        for pause in islice(pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S), retries):
            try:
                return await self._request(method, path, body, timeout_s, headers, max_answer_bytes)
            except Unavailable:
                await asyncio.sleep(pause)
        return await self._request(method, path, body, timeout_s, headers, max_answer_bytes)

    async def _request(
        self,
        method: str,
        path: str,
        body: bytes | None,
        timeout_s: float | None,
        headers: Mapping[str, str] | None,
        max_answer_bytes: int | None,
    ) -> Answer:
        """Send one request, once."""
        limit = self.timeouts.request_s if timeout_s is None else timeout_s
        what = f"{method} {self.url}{path}"
        timeout = aiohttp.ClientTimeout(total=limit, connect=self.timeouts.connect_s)
        sent = {**self._headers, **(headers or {})}
        try:
            pool = self._pool()
            async with pool.request(
                method, self.url + path, data=body, headers=sent, timeout=timeout, allow_redirects=False
            ) as reply:
                received = await read_bounded(reply, max_answer_bytes or self.max_answer_bytes)
                answer = Answer(reply.status, received, what, self.url, self.service)
                waits = reply.headers
        except TimeoutError as error:
            raise Unavailable(f"{what}: no answer within {limit:g} s") from error
        except AnswerRefused as error:
            raise ProtocolError(f"{what}: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{what}: {str(error) or type(error).__name__}") from error
        if answer.status == 429 or answer.status >= 500:
            message = f"{what} failed with {answer.status}: {quote(answer.body)}"
            if answer.status in (429, 503) and "Retry-After" in waits:
                raise AtCapacity(message, _retry_after(waits))
            raise Unavailable(message)
        return answer
