"""The HTTP client that the vendors' SDKs use here, with limits against hostile and broken servers.

The SDKs read replies of any size, follow redirects, and report failures in three ways, partly without the headers.
So this client raises `HttpFailure` itself for every response that is no success, before the SDK reads it. It needs
`httpx2`, which all three SDKs accept as `http_client`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import httpx2

from arlarena.rollout.evaluation.models.connection import ApiLimits

# The part of an error's body that is read. Error objects of the vendors have at most a few kilobytes.
MAX_ERROR_BYTES = 64 << 10
PROBE_S = 5.0  # time limit of `connection_error` for the connection, and for the reply


class HttpFailure(Exception):
    """A response with another status than 2xx.

    Attributes:
        status: the HTTP status.
        headers: with names in lower case.
        body: the first `MAX_ERROR_BYTES` bytes at most.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"HTTP status {status}")
        self.status, self.headers, self.body = status, headers, body


class UnusableReply(Exception):
    """The reply is too large or compressed."""


class _BoundedStream(httpx2.AsyncByteStream):
    """The body of a response, of at most `limit` bytes."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit: int) -> None:
        self._stream, self._limit = stream, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yields the body's parts.

        Raises:
            UnusableReply: the body is too large.
        """
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._limit:
                raise UnusableReply(f"the reply has more than {self._limit} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _first_bytes(response: httpx2.Response) -> bytes:
    """Returns the first bytes of an error's body, or the bytes that arrived before the connection was lost."""
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) >= MAX_ERROR_BYTES:
                break
    except httpx2.HTTPError:
        pass  # the status is enough
    return bytes(body[:MAX_ERROR_BYTES])


def http_client(limits: ApiLimits) -> httpx2.AsyncClient:
    """Returns an HTTP client for one SDK. It uses the proxy of the environment, if there is one.

    Its requests raise two errors that httpx2 does not have:
        HttpFailure: the status is not 2xx. Redirects are not followed.
        UnusableReply: the reply is larger than `limits.reply_bytes`, or compressed.
    """
    timeout = httpx2.Timeout(limits.request_s, connect=limits.connect_s)

    async def set_timeout(request: httpx2.Request) -> None:
        # google-genai replaces the timeout of the client by one without a limit for connecting.
        request.extensions = {**request.extensions, "timeout": timeout.as_dict()}

    async def check(response: httpx2.Response) -> None:
        if not response.is_success:
            headers = {name.lower(): value for name, value in response.headers.items()}
            raise HttpFailure(response.status_code, headers, await _first_bytes(response))
        # A few kilobytes of gzip may decompress to gigabytes.
        if (encoding := response.headers.get("content-encoding", "identity").lower()) != "identity":
            raise UnusableReply(f"the reply has the encoding {encoding[:40]!r}, which was not requested")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedStream(response.stream, limits.reply_bytes)

    return httpx2.AsyncClient(
        timeout=timeout,
        # The evaluation limits its concurrency itself. httpx2's default keeps only 20 idle connections open.
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
        follow_redirects=False,
        headers={"accept-encoding": "identity"},
        event_hooks={"request": [set_timeout], "response": [check]},
    )


async def connection_error(url: str) -> str:
    """Returns why no connection to `url` is possible, or "". A late reply or an error is enough."""
    try:
        async with http_client(ApiLimits(request_s=PROBE_S, connect_s=PROBE_S)) as client:
            await client.get(url)
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        return str(error) or "the time limit of a connection"
    except (httpx2.HTTPError, HttpFailure, UnusableReply):
        pass
    return ""
