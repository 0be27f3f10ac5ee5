"""Converts failures of a model's API to the errors of `errors.py`.

    429, 5xx, 408, 409, timeout, lost connection    Retryable
    401, 402, 403, 404, no credit, redirect         Denied
    invalid sampling parameter or certificate       Denied
    413, or the messages exceed the context         TooLong
    other 4xx, unusable reply                       Rejected

`possibly_charged` is False only if the server certainly did not run the request. In this case, either the request was
not sent, or the server was full (429, 503, and Anthropic's 529). Sources:
https://platform.openai.com/docs/guides/error-codes,
https://docs.anthropic.com/en/api/errors, https://ai.google.dev/gemini-api/docs/troubleshooting.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import httpx2

from arlarena.rollout.evaluation.models.connection import ApiConnection
from arlarena.rollout.evaluation.models.errors import Denied, ModelError, Rejected, Retryable, TooLong
from arlarena.rollout.evaluation.models.http import HttpFailure, UnusableReply

_NOT_RUN = frozenset((429, 503, 529))
_RETRYABLE = frozenset((408, 409, 425, 429))
_DENIED = frozenset((401, 402, 403, 404))
# Codes and words that mean "no credit". Waiting does not help. OpenAI sends them with status 429, Anthropic with 400.
_NO_CREDIT = re.compile(r"insufficient_quota|billing_(?:hard_limit|error)|credit balance is too low", re.IGNORECASE)
# Codes and words in the errors about too long messages of OpenAI, Anthropic, Google, vLLM, llama.cpp and ARLArena's
# policy server.
_TOO_LONG = re.compile(
    r"context_length_exceeded|maximum (?:context|model) length|context (?:length|window|size|limit)|prompt is too long"
    r"|input token count|exceed_context_size|reduce the length of the (?:messages|prompt|input)",
    re.IGNORECASE,
)
# Parameters that all requests of an evaluation have. If the API rejects one of these parameters, all requests fail.
_SAMPLING = frozenset(("model", "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop"))
# OpenAI's message about an invalid key contains the first and last characters of the key, with stars between them.
_STARRED = re.compile(r"\S*\*{3,}\S*")
_TAG = re.compile(r"<[^>]*>")


@dataclass(frozen=True, slots=True)
class VendorError:
    """The error object of a response. If the object lacks a text, the field is "".

    Attributes:
        status: the HTTP status.
        kind: the field `type` (OpenAI, Anthropic) or `status` (Google).
        code: OpenAI's error code.
        param: name of the invalid parameter.
        message: the error message. If the response has no error object, the message is the text of the body.
        retry_after_s: the wait in seconds that the server requests, or None.
    """

    status: int
    kind: str = ""
    code: str = ""
    param: str = ""
    message: str = ""
    retry_after_s: float | None = None

    @property
    def words(self) -> str:
        """Kind, code and message in one string, for searches."""
        return f"{self.kind} {self.code} {self.message}"

    @property
    def reason(self) -> str:
        """Status, kind, code and message in one string, for error messages."""
        names = " ".join(dict.fromkeys(name for name in (self.kind, self.code) if name and name != "error"))
        return f"{self.status} {names}: {self.message or 'no explanation'}"


# A function that returns the error for a special case of one vendor. If it returns None, `status_error` chooses the
# error.
SpecialCase = Callable[[VendorError], ModelError | None]


def parse_http_date(text: str) -> float | None:
    """Returns an HTTP date as seconds since the epoch, or None if `text` is not an HTTP date."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Returns the wait in seconds that a response requests, or None.

    The wait is in the header `retry-after-ms` (OpenAI, Azure) or `Retry-After` (RFC 9110, 10.2.3). `Retry-After` is a
    number of seconds or an HTTP date. A date is compared with the response's `Date`, because the server's clock may
    differ from the local clock. Negative and infinite values are ignored.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    date = parse_http_date(headers.get("retry-after", ""))
    if date is None:
        return None
    now = parse_http_date(headers.get("date", ""))
    return max(0.0, date - (time.time() if now is None else now))


def _google_delay_s(error: Mapping[str, Any]) -> float | None:
    """Returns `retryDelay` of Google's `RetryInfo` (for example "34.5s") in seconds, or None."""
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and (match := re.fullmatch(r"(\d{1,9}(?:\.\d+)?)s", delay)):
            return float(match[1])
    return None


def vendor_error(failure: HttpFailure) -> VendorError:
    """Parses a failed response. If the body is not an error object, `_page_text` returns the message."""
    try:
        body: Any = json.loads(failure.body)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, list) and body:
        body = body[0]  # Google's OpenAI-compatible route returns a list
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, str):
        error = {"message": error}
    wait = retry_after_s(failure.headers)
    if not isinstance(error, dict):
        return VendorError(failure.status, message=_page_text(failure), retry_after_s=wait)
    text = {name: error[name] for name in ("type", "status", "code", "param", "message") if error.get(name) is not None}
    return VendorError(
        status=failure.status,
        kind=str(text.get("type", text.get("status", "")))[:80],
        code="" if isinstance(text.get("code"), int) else str(text.get("code", ""))[:80],
        param=str(text.get("param", ""))[:80],
        message=_STARRED.sub("***", str(text.get("message", error.get("detail", "")))[:2000]),
        retry_after_s=wait if wait is not None else _google_delay_s(error),
    )


def _page_text(failure: HttpFailure) -> str:
    """Returns a message for a response without an error object.

    For a redirect, the message names its target. For other responses, the message is the body without HTML tags.
    """
    if 300 <= failure.status < 400:
        return f"redirects to {failure.headers.get('location', 'no address')}; check the address"
    # Remove tags before the text is shortened, because the first 2000 characters of a page may contain only tags.
    return " ".join(_TAG.sub(" ", failure.body.decode(errors="replace")).split())[:2000]


def status_error(error: VendorError, connection: ApiConnection) -> ModelError:
    """Returns the error for a failed response."""
    message = connection.message(error.reason)
    if _NO_CREDIT.search(error.words):
        return Denied(message)
    if error.status >= 500 or error.status in _RETRYABLE:
        return Retryable(
            message,
            retry_after_s=error.retry_after_s,
            possibly_charged=error.status not in _NOT_RUN,
            rate_limited=error.status == 429,
        )
    if error.status in _DENIED or error.status < 400:
        hint = f" (key from the environment variable {connection.key_variable})" if error.status in (401, 403) else ""
        return Denied(connection.message(error.reason[:200] + hint) if hint else message)
    if error.status == 413 or _TOO_LONG.search(error.words):
        return TooLong(message)
    if error.param in _SAMPLING:
        return Denied(message)
    return Rejected(message)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and its chain of causes. The SDKs wrap the errors of the HTTP client."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


# Errors of the HTTP clients. The SDKs use httpx2. Requests without an SDK use aiohttp. After an error of
# `_WRONG_REQUESTS`, every further request would fail. After an error of `_NOT_SENT`, the request was not sent.
_WRONG_REQUESTS = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, aiohttp.InvalidURL)
_NOT_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
)


def _connection_error(error: httpx2.HTTPError | aiohttp.ClientError, connection: ApiConnection) -> ModelError:
    """Returns the error for a request without a complete response."""
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, _WRONG_REQUESTS) or "CERTIFICATE" in str(error):
        return Denied(connection.message(reason))
    return Retryable(connection.message(reason), possibly_charged=not isinstance(error, _NOT_SENT))


def model_error(error: Exception, connection: ApiConnection, special: SpecialCase | None = None) -> ModelError:
    """Converts an error of a request to an error of `errors.py`. `special`: handles special cases of the vendor."""
    for cause in _causes(error):
        if isinstance(cause, ModelError):
            return cause
        if isinstance(cause, HttpFailure):
            found = vendor_error(cause)
            return (special(found) if special else None) or status_error(found, connection)
        if isinstance(cause, UnusableReply):
            return Rejected(connection.message(str(cause)))
        if isinstance(cause, httpx2.HTTPError | aiohttp.ClientError):
            return _connection_error(cause, connection)
        if isinstance(cause, TimeoutError):
            seconds = f"{connection.limits.request_s:g} s"
            return Retryable(connection.message(f"no complete reply within {seconds}"), possibly_charged=True)
        # If the server sends no content length, a lost connection looks like a complete reply with invalid JSON.
        if isinstance(cause, json.JSONDecodeError):
            return Retryable(connection.message(f"the reply is not valid JSON: {cause}"), possibly_charged=True)
    return Rejected(connection.message(f"the reply or a parameter is invalid: {type(error).__name__}: {error}"))


@asynccontextmanager
async def model_errors(connection: ApiConnection, special: SpecialCase | None = None) -> AsyncIterator[None]:
    """Limits a request to `request_s` seconds. Converts all errors of the request to errors of `errors.py`.

    Raises:
        ModelError: the request or the conversion of its reply failed.
    """
    try:
        async with asyncio.timeout(connection.limits.request_s):
            yield
    except Exception as error:
        # `from None` drops the SDK's error, because it may contain the request's headers with the key.
        raise model_error(error, connection, special) from None
