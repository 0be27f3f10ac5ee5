"""The little HTTP that the routes need: a call with its whole body in, one reply or a stream of events out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from arlarena.inference.errors import ClientGone, RequestError
from arlarena.proto.telemetry import Logger

_JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `receive` reports, after the body, that the client has left."""

    body: bytes
    headers: list[tuple[bytes, bytes]]
    query_string: bytes
    receive: Receive

    def header(self, name: bytes) -> str | None:
        """A header's value; `name` in lower case."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None

    @property
    def query(self) -> dict[str, str]:
        """Query parameters."""
        return dict(parse_qsl(self.query_string.decode("latin-1"), keep_blank_values=True))


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    body: bytes
    status: int = 200
    content_type: bytes = _JSON


Handler = Callable[[Call], Awaitable[Reply | AsyncIterator[bytes]]]


class Endpoint:
    """An ASGI application around one handler: reads the body, sends the reply, turns errors into JSON."""

    def __init__(self, handler: Handler, max_body: int, log: Logger) -> None:
        self._handler = handler
        self._max_body = max_body
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            body = await read_body(receive, self._max_body)
            reply = await self._handler(Call(body, scope["headers"], scope["query_string"], receive))
            if not isinstance(reply, Reply):
                await self._stream(reply, send)
                return
        except ClientGone:
            return
        except RequestError as error:
            reply = Reply(error.body(), error.status)
        except Exception as error:
            self._log.error("request_failed", path=scope["path"], error=repr(error))
            unexpected = RequestError(f"internal error: {type(error).__name__}; see the server's log", status=500)
            reply = Reply(unexpected.body(), 500)
        await send_reply(send, reply)

    async def _stream(self, events: AsyncIterator[bytes], send: Send) -> None:
        """Server-sent events. An error before the first is an ordinary answer; a later one is the last event."""
        first = await anext(events)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _send_event(send, first)
        try:
            async for event in events:
                await _send_event(send, event)
        except ClientGone:
            return
        except RequestError as error:
            await _send_event(send, error.body())
        await _send_event(send, b"[DONE]")
        await send({"type": "http.response.body", "body": b""})


async def _send_event(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})


async def send_reply(send: Send, reply: Reply) -> None:
    """Send a whole answer."""
    headers = [(b"content-type", reply.content_type), (b"content-length", str(len(reply.body)).encode())]
    if reply.status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body.

    Raises:
        ClientGone: the client left before it was whole.
        RequestError: 413, it is larger than `limit` bytes.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise RequestError(f"the body is larger than {limit >> 20} MiB (max_body_mb)", status=413)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
