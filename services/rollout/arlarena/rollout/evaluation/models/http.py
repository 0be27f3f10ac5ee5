"""The HTTP client for the vendors' SDKs, with limits against hostile and broken servers.

The SDKs read replies of any size and follow redirects. Each SDK reports failures in its own way, and some SDKs omit the
headers. This client therefore raises `HttpFailure` for every status other than 2xx, before the SDK reads the response.
The client is an `httpx2` client, because all three SDKs accept such a client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import httpx2

from arlarena.rollout.evaluation.models.connection import ApiLimits

# Maximum number of bytes that are read from an error's body. The vendors' error objects have at most a few kilobytes.
MAX_ERROR_BYTES = 64 << 10
PROBE_S = 5.0  # maximum seconds that `connection_error` waits for a connection, and for the reply


class HttpFailure(Exception):
    """A response with a status other than 2xx.

    Attributes:
        status: the HTTP status.
        headers: the headers, with names in lower case.
        body: at most the first `MAX_ERROR_BYTES` bytes of the body.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"HTTP status {status}")
        self.status, self.headers, self.body = status, headers, body


class UnusableReply(Exception):
    """The reply is too large or compressed."""


class _BoundedStream(httpx2.AsyncByteStream):
    """The body of a response. Reading more than `limit` bytes raises an error."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit: int) -> None:
        self._stream, self._limit = stream, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yields the chunks of the body.

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
    """Returns the first `MAX_ERROR_BYTES` bytes of an error's body.

    If the connection is lost, returns the bytes that arrived before.
    """
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) >= MAX_ERROR_BYTES:
                break
    except httpx2.HTTPError:
        pass  # the status and the first bytes are enough
    return bytes(body[:MAX_ERROR_BYTES])


def http_client(limits: ApiLimits) -> httpx2.AsyncClient:
    """Returns an HTTP client for one SDK. If environment variables name a proxy, the client uses the proxy.

    Requests raise two errors in addition to the errors of httpx2:
        HttpFailure: the status is not 2xx. Redirects are not followed.
        UnusableReply: the reply is larger than `limits.reply_bytes`, or compressed.
    """
    timeout = httpx2.Timeout(limits.request_s, connect=limits.connect_s)

    async def set_timeout(request: httpx2.Request) -> None:
        # google-genai replaces the client's timeout with a timeout that does not limit connecting.
        request.extensions = {**request.extensions, "timeout": timeout.as_dict()}

    async def check(response: httpx2.Response) -> None:
        if not response.is_success:
            headers = {name.lower(): value for name, value in response.headers.items()}
            raise HttpFailure(response.status_code, headers, await _first_bytes(response))
        # Data compressed with gzip may become a thousand times as large. A reply of 8 MiB could then take gigabytes.
        if (encoding := response.headers.get("content-encoding", "identity").lower()) != "identity":
            raise UnusableReply(f"the reply has the encoding {encoding[:40]!r}, which was not requested")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedStream(response.stream, limits.reply_bytes)

    return httpx2.AsyncClient(
        timeout=timeout,
        # No limits, because the evaluation limits its concurrency. httpx2 keeps only 20 idle connections by default.
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
        follow_redirects=False,
        headers={"accept-encoding": "identity"},
        event_hooks={"request": [set_timeout], "response": [check]},
    )


async def connection_error(url: str) -> str:
    """Connects to the server at `url`. Returns "" if the connection succeeds, else the error.

    The function sends a GET request. It ignores an error status and a missing reply.
    """
    try:
        async with http_client(ApiLimits(request_s=PROBE_S, connect_s=PROBE_S)) as client:
            await client.get(url)
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        return str(error) or f"no connection within {PROBE_S:g} s"
    except (httpx2.HTTPError, HttpFailure, UnusableReply):
        pass
    return ""
