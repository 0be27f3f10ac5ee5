"""Sends requests to the Chat Completions API. `SdkSender` uses OpenAI's SDK. `ServerSender` uses no SDK.

OpenAI's SDK and its HTTP client need more than 2 ms of CPU time for each request. `ServerSender` needs a tenth of this
time. Example: 64 requests run at the same time, and each reply takes 50 ms. With the SDK, one CPU core would limit the
evaluation to a quarter of the possible speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
import msgspec
from openai import AsyncOpenAI

from arlarena.client.bounded import IDENTITY, AnswerRefused, read_bounded
from arlarena.rollout.evaluation.models.connection import ApiConnection
from arlarena.rollout.evaluation.models.http import MAX_ERROR_BYTES, HttpFailure, UnusableReply, http_client


@dataclass(frozen=True, slots=True)
class RawCompletion:
    """A response with a status of 2xx. `request_id`: the server's id of the request, "" if unknown."""

    body: bytes
    content_type: str
    request_id: str


class ChatSender(Protocol):
    """Sends requests to one Chat Completions API."""

    async def send(self, request: Mapping[str, Any]) -> RawCompletion:
        """Send one request without retries, and return the response.

        `request`: the JSON object of the request, without null values.

        Raises:
            Exception: the request failed. `failures.model_error` converts the exception to a `ModelError`.
        """
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class SdkSender:
    """Sends requests with OpenAI's SDK."""

    def __init__(self, connection: ApiConnection) -> None:
        self._client = AsyncOpenAI(
            api_key=connection.key,
            base_url=connection.base_url,
            max_retries=0,
            timeout=connection.limits.request_s,
            http_client=http_client(connection.limits),
        )

    async def send(self, request: Mapping[str, Any]) -> RawCompletion:
        """See `ChatSender.send`."""
        extra = {name: value for name, value in request.items() if name not in ("model", "messages")}
        create: Any = self._client.chat.completions.with_raw_response.create
        response = await create(model=request["model"], messages=request["messages"], extra_body=extra)
        headers = response.headers
        return RawCompletion(response.content, headers.get("content-type", ""), headers.get("x-request-id", ""))

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()


def environment_proxy(url: str) -> str | None:
    """Returns the proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY choose for `url`, or None.

    aiohttp's option `trust_env` is not used, because it searches for the proxy at each request, in a thread. It also
    sends passwords from the file ~/.netrc.
    """
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


class ServerSender:
    """Sends requests to an OpenAI-compatible server without an SDK. Uses the proxy that `environment_proxy` returns."""

    def __init__(self, connection: ApiConnection) -> None:
        self._connection = connection
        self._url = f"{connection.base_url}/chat/completions"
        self._headers = {"authorization": f"Bearer {connection.key}", "content-type": "application/json", **IDENTITY}
        self._session: aiohttp.ClientSession | None = None

    def _open_session(self) -> aiohttp.ClientSession:
        """Returns the HTTP session. The first call creates the session, because it needs a running event loop."""
        if self._session is None:
            # limit=0 means no limit, because the evaluation itself limits its concurrency. The session trusts the same
            # certificates as the SDKs.
            connector = aiohttp.TCPConnector(limit=0, ssl=httpx2.create_ssl_context())
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connection.limits.connect_s)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                proxy=environment_proxy(self._url),
            )
        return self._session

    async def send(self, request: Mapping[str, Any]) -> RawCompletion:
        """See `ChatSender.send`."""
        body = msgspec.json.encode(request)
        async with self._open_session().post(self._url, data=body, allow_redirects=False) as response:
            if not 200 <= response.status < 300:
                headers = {name.lower(): value for name, value in response.headers.items()}
                raise HttpFailure(response.status, headers, await _first_bytes(response))
            try:
                received = await read_bounded(response, self._connection.limits.reply_bytes)
            except AnswerRefused as error:
                raise UnusableReply(str(error)) from error
            names = response.headers
            return RawCompletion(received, names.get("content-type", ""), names.get("x-request-id", ""))

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()


async def _first_bytes(response: aiohttp.ClientResponse) -> bytes:
    """Returns the first `MAX_ERROR_BYTES` bytes of an error's body.

    If the connection is lost, returns the bytes that arrived before.
    """
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) >= MAX_ERROR_BYTES:
                break
    except aiohttp.ClientError:
        pass  # the status and the first bytes are enough
    return bytes(body[:MAX_ERROR_BYTES])
