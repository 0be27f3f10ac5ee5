"""A thin ASGI layer. A handler gets a request and returns a complete response, an event stream or a relayed stream."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from arlarena.inference.api.access import EVERYBODY, Access
from arlarena.inference.api.errors import ClientGone, RequestError
from arlarena.inference.api.loop_fairness import TURN_S
from arlarena.proto.policy import TIMEOUT_HEADER
from arlarena.proto.telemetry import Logger

_JSON = b"application/json"
MODEL_ROUTE = "/v1/models/{model:path}"  # model names may contain slashes

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request. `receive`: waits for the next ASGI message. After the complete body, the next message reports that
    the client has disconnected.
    """

    method: str
    path: str
    body: bytes
    headers: list[tuple[bytes, bytes]]
    query_string: bytes
    receive: Receive
    path_params: dict[str, str] = field(default_factory=dict)

    def header(self, name: bytes) -> str | None:
        """Returns the value of a header, or None. `name`: the header's name in lower case."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None

    @property
    def query(self) -> dict[str, str]:
        """The query parameters."""
        return dict(parse_qsl(self.query_string.decode("latin-1"), keep_blank_values=True))

    @property
    def timeout_s(self) -> float | None:
        """The client's time limit for this request, in seconds. None if the client has set no limit.

        Raises:
            RequestError: status 400 if the header is not a positive number.
        """
        value = self.header(TIMEOUT_HEADER.encode())
        if value is None:
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0.0 < seconds < float("inf"):
            raise RequestError(f"header {TIMEOUT_HEADER} must be a positive number of seconds, got {value!r}")
        return seconds


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A complete response."""

    body: bytes
    status: int = 200
    content_type: bytes = _JSON
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class EventStream:
    """A response of server-sent events. `events`: yields the data of each event."""

    events: AsyncIterator[bytes]
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Relay:
    """An event stream from another server. `chunks`: the chunks of the stream. Each chunk is sent to the client as soon
    as the chunk arrives. If the other server fails, the client receives an error event and the event `[DONE]`.
    """

    status: int
    headers: Headers
    chunks: AsyncIterator[bytes]


AnyResponse = ApiResponse | EventStream | Relay
Handler = Callable[[ApiRequest], Awaitable[AnyResponse]]


class Endpoint:
    """An ASGI application with one handler. The application reads the request body, calls the handler, and sends the
    response. Errors are sent as JSON.
    """

    def __init__(self, handler: Handler, max_body: int | None, log: Logger, access: Access = EVERYBODY) -> None:
        """`max_body`: the maximum size of a request body in bytes; None: the handler reads the body from `receive`."""
        self._handler = handler
        self._max_body = max_body
        self._log = log
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        try:
            server = scope.get("server")
            self._access.check(scope["headers"], server[1] if server else None)
            _check_encoding(scope)
            body = b"" if self._max_body is None else await read_body(receive, self._max_body)
            headers, query, params = scope["headers"], scope["query_string"], scope.get("path_params", {})
            response = await self._handler(
                ApiRequest(scope["method"], scope["path"], body, headers, query, receive, params)
            )
            if isinstance(response, EventStream):
                return await self._stream(response, send)
            if isinstance(response, Relay):
                return await self._relay(response, send)
            complete = response
        except ClientGone:
            return
        except RequestError as error:
            complete = _error_response(error)
        except Exception as error:
            complete = _error_response(self._log_unexpected(error))
        await send_response(send, complete)

    def _log_unexpected(self, error: Exception) -> RequestError:
        self._log.error("request_failed", error=repr(error))
        return RequestError(f"internal error: {type(error).__name__}; see the server's log", status=500)

    async def _stream(self, stream: EventStream, send: Send) -> None:
        """Send a stream of events, then the event `[DONE]`. If an error occurs before the first event, this method
        raises the error, and the caller sends an ordinary error response. If a later error occurs, this method sends
        the error as an event before `[DONE]`. If the client disconnects, this method stops without a further event.
        """
        first = await anext(stream.events)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers + list(stream.headers)})
        await _send_event(send, first)
        yielded_at = time.monotonic()
        try:
            async for event in stream.events:
                await _send_event(send, event)
                if time.monotonic() - yielded_at > TURN_S:  # `send` can return without letting other tasks run
                    await asyncio.sleep(0)
                    yielded_at = time.monotonic()
        except ClientGone:
            return
        except RequestError as error:
            await _send_event(send, error.body())
        except Exception as error:
            await _send_event(send, self._log_unexpected(error).body())
        await _send_event(send, b"[DONE]")
        await send({"type": "http.response.body", "body": b""})

    async def _relay(self, relay: Relay, send: Send) -> None:
        await send({"type": "http.response.start", "status": relay.status, "headers": list(relay.headers)})
        async with contextlib.aclosing(relay.chunks) as chunks:  # type: ignore[type-var]
            try:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except ClientGone:
                return
            except RequestError as error:
                await _send_event(send, error.body())
                await _send_event(send, b"[DONE]")
        await send({"type": "http.response.body", "body": b""})


async def _send_event(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})


def _error_response(error: RequestError) -> ApiResponse:
    headers = tuple((name.encode(), value.encode()) for name, value in error.headers().items())
    return ApiResponse(error.body(), error.status, headers=headers)


def _check_encoding(scope: Scope) -> None:
    """Check that the body is not compressed.

    Raises:
        RequestError: status 415 if the body is compressed.
    """
    coding = dict(scope["headers"]).get(b"content-encoding", b"").decode("latin-1").strip().lower()
    if coding not in ("", "identity"):
        message = (
            f"the body is encoded with {coding!r} (Content-Encoding): send the body uncompressed, without this header"
        )
        raise RequestError(message, status=415)


async def send_response(send: Send, response: ApiResponse) -> None:
    """Send a complete response."""
    headers = [(b"content-type", response.content_type), (b"content-length", str(len(response.body)).encode())]
    await send({"type": "http.response.start", "status": response.status, "headers": headers + list(response.headers)})
    await send({"type": "http.response.body", "body": response.body})


async def body_chunks(receive: Receive) -> AsyncIterator[bytes]:
    """Yields each chunk of the body as soon as the chunk arrives.

    Raises:
        ClientGone: the client disconnected before the end of the body.
    """
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def read_body(receive: Receive, limit: int) -> bytes:
    """Returns the complete body.

    Raises:
        ClientGone: the client disconnected before the end of the body.
        RequestError: status 413 if the body is larger than `limit` bytes.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in body_chunks(receive):
        size += len(chunk)
        if size > limit:
            raise RequestError(f"the body is larger than {limit >> 20} MiB (server setting max_body_mb)", status=413)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
