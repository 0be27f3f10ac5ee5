"""HTTP and WebSocket protocols for uvicorn, with limits against slow, large and too many requests.

    uvicorn.Config(app, **bounded(HttpLimits(body_bytes=16 << 20)))

Uvicorn does not limit these quantities, and an ASGI application cannot limit them:
- the number of connections;
- the size and number of headers;
- the time in which a request arrives;
- the total memory of unfinished requests.
These limits do not apply to connections over a Unix socket, because they come from the server's own processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import socket
from collections import deque
from dataclasses import dataclass
from typing import Any

from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_CLOSE_TIMEOUT_S = 5.0  # time for sending the last bytes of a connection, before the connection is aborted
_SPARE_DESCRIPTORS = 64  # file descriptors that are not for connections, but for files and other sockets


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of one server process. Sizes are in bytes, times in seconds."""

    body_bytes: int  # maximum size of a request body in memory; the application must stream larger bodies
    held_bytes: int = 64 << 20  # maximum total size of all requests and WebSocket messages that have no response yet
    frame_bytes: int = 1 << 20  # maximum size of a WebSocket message
    # Maximum number of connections. If another client connects, the server closes the connection that has been idle for
    # the longest time. If no connection is idle, the new connection gets status 503.
    connections: int = 4096
    header_bytes: int = 64 << 10  # maximum total size of the request target and all headers
    headers: int = 128  # maximum number of headers
    header_s: float = 10.0  # time limit for the headers of a request, from the connection or from the first byte
    body_s: float = 10.0  # interval between two checks that a body arrives at `body_rate` or faster
    body_rate: int = 1024  # minimum bytes per second of an arriving request body
    write_s: float = 120.0  # if a client reads nothing of a response for this time, the connection is closed
    streamed: re.Pattern[bytes] | None = None  # paths whose bodies are streamed and do not count towards `held_bytes`
    pipelined: int = 16  # maximum number of requests or WebSocket messages that wait for a response
    fragments: int = 1024  # maximum number of fragments of one WebSocket message


def bounded(limits: HttpLimits) -> dict[str, Any]:
    """Returns arguments for `uvicorn.Config` that apply `limits`. Call this function once for each server, because all
    connections of a server share the limits.
    """
    shared = _Shared(limits)
    http = type("BoundedHttp", (_Http,), {"shared": shared})
    websocket = type("BoundedWebSocket", (_WebSocket,), {"shared": shared})
    return {"http": http, "ws": websocket, "ws_per_message_deflate": False, "ws_max_size": limits.frame_bytes}


class _Shared:
    """State shared by the connections of one server."""

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        descriptors = _raise_descriptor_limit() - _SPARE_DESCRIPTORS
        self.connections = min(limits.connections, descriptors)
        setting = "max_connections" if limits.connections <= descriptors else "the limit of open files (ulimit -n)"
        self.full = f"all {self.connections} connections are in use: either close some of them, or raise {setting}"
        self.held = 0  # bytes of all requests and WebSocket messages that have no response yet
        self.open = 0
        self.waiting: dict[_Http, None] = {}  # idle connections; the first has been idle for the longest time
        self.arriving: dict[_Http | _WebSocket, None] = {}  # connections with an incomplete request or message

    def hold(self, connection: _Http | _WebSocket, size: int) -> None:
        """Count `size` more bytes that `connection` has received.

        If the total of all connections exceeds `held_bytes`, closes the connection with the largest incomplete request.
        A single client therefore cannot use up the memory of all clients.
        """
        connection.held += size
        self.held += size
        self.arriving[connection] = None
        while self.held > self.limits.held_bytes and self.arriving:
            victim = max(self.arriving, key=lambda arriving: arriving.held)
            self.release(victim)
            victim.close_overloaded()

    def release(self, connection: _Http | _WebSocket) -> None:
        """Subtract all bytes of a connection from the total, after its last response or when it is closed."""
        self.give_back(connection, connection.held)
        self.arriving.pop(connection, None)

    def give_back(self, connection: _Http | _WebSocket, size: int) -> None:
        """Subtract `size` bytes of a connection from the total."""
        self.held -= size
        connection.held -= size


def _is_unix_socket(transport: asyncio.BaseTransport) -> bool:
    """True if a connection uses a Unix socket."""
    connection = transport.get_extra_info("socket")
    return connection is not None and connection.family == socket.AF_UNIX


def _limit_unread(transport: asyncio.BaseTransport, seconds: float) -> None:
    """Make the kernel close the connection if the client acknowledges no data for `seconds`.

    This module's write timers start only when asyncio's transport pauses writing. The transport does not pause for the
    last kilobytes of a response. If a client never reads them, only the kernel's limit ends the connection.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(1000 * seconds)))


def _raise_descriptor_limit() -> int:
    """Raise this process's soft limit of open files to the hard limit. Returns the new soft limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS may report a hard limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


class _Http(HttpToolsProtocol):
    """One HTTP connection."""

    shared: _Shared

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None  # time limit of a request's headers or body
        self._write_timer: asyncio.TimerHandle | None = None
        self._refusal = (400, "Invalid HTTP request received.")
        self._unparsed = 0  # bytes received since the start of the request, or since the last part of its body
        self._body = self._body_seen = 0  # received bytes of the body: now, and at the last call of `_check_body`
        self._streamed = False
        self._in_body = False  # the headers are complete, but the body is not
        self._unregistered = False  # the connection is closed or became a WebSocket
        self.held = 0
        self._counted = True  # whether this connection counts in `_Shared.open`
        self._unix_socket = False

    # --- connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        shared = self.shared
        self._unix_socket = _is_unix_socket(transport)
        self._counted = not self._unix_socket
        shared.open += self._counted
        if not self._unix_socket:
            _limit_unread(transport, shared.limits.write_s)
        if shared.open > shared.connections:
            if not shared.waiting:
                self._close_with(503, shared.full)
                return
            victim = next(iter(shared.waiting))
            del shared.waiting[victim]
            victim.transport.abort()
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unregister()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._unregister()
        super().handle_websocket_upgrade()

    def _unregister(self) -> None:
        """Stop all timers of this connection, and remove it from the state of all connections."""
        self._unregistered = True
        self._set_timer(None)
        self.shared.release(self)
        if self._write_timer is not None:
            self._write_timer.cancel()
        self.shared.waiting.pop(self, None)
        if self._counted:
            self._counted = False
            self.shared.open -= 1

    def _wait_for_request(self) -> None:
        """Mark this connection as idle. Closes it if the headers of a request do not arrive within `header_s`."""
        self._mark_waiting()
        self._set_timer(self.shared.limits.header_s, self._headers_late)

    def _mark_waiting(self) -> None:
        """Mark this connection as idle: if there are too many connections, the server may close it."""
        if self._counted:
            self.shared.waiting[self] = None

    def _set_timer(self, seconds: float | None, then: Any = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, then)

    def _headers_late(self) -> None:
        self._close_with(408, f"the headers of a request did not arrive within {self.shared.limits.header_s:g} s")

    # --- request ---

    def data_received(self, data: bytes) -> None:
        limits = self.shared.limits
        self._unparsed += len(data)
        super().data_received(data)
        incomplete = self._in_body or self._unparsed  # most requests arrive in one piece and need no timer
        if incomplete and self._timer is None and not self._unregistered and not self.transport.is_closing():
            if self._in_body:
                self._set_timer(limits.body_s, self._check_body)
            else:
                self._set_timer(limits.header_s, self._headers_late)
        if self._unparsed > limits.header_bytes and not self.transport.is_closing():
            self._close_with(431, f"the headers are larger than {limits.header_bytes} bytes")

    def on_message_begin(self) -> None:
        self._body = self._body_seen = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        limits = self.shared.limits
        if len(self.headers) > limits.headers:
            self._refuse(431, f"there are more than {limits.headers} headers")
        if self._unparsed > limits.header_bytes:  # `_unparsed` may include the body, so count the headers exactly
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > limits.header_bytes:
                self._refuse(431, f"the request target and headers are larger than {limits.header_bytes} bytes")
        if len(self.pipeline) >= limits.pipelined:
            self._refuse(400, f"more than {limits.pipelined} requests were sent before their responses")
        self._unparsed = 0
        self._streamed = limits.streamed is not None and limits.streamed.match(self.url) is not None
        self._streamed |= self._unix_socket
        self.shared.waiting.pop(self, None)
        if self._timer is not None:
            self._set_timer(None)
        self._in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        self._body += len(body)
        ended = self.cycle is None or self.cycle.response_complete or self.transport.is_closing()
        if not ended and not self._streamed:
            self.shared.hold(self, min(len(body), self.shared.limits.body_bytes - self.held))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        self.shared.arriving.pop(self, None)
        if self._timer is not None:
            self._set_timer(None)
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.shared.release(self)
        super().on_response_complete()
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self._mark_waiting()  # uvicorn's own timer closes an idle connection

    def close_overloaded(self) -> None:
        """Close this connection, because the unfinished requests of all connections exceed `held_bytes`."""
        self._close_with(503, "the server has too many unfinished requests; try again later")

    def _check_body(self) -> None:
        """Close the connection if its request body arrives too slowly and the server has not paused reading."""
        limits = self.shared.limits
        new, self._body_seen = self._body - self._body_seen, self._body
        paused = self.flow.read_paused or self.cycle.waiting_for_100_continue
        if new < limits.body_rate * limits.body_s and not paused:
            self._close_with(408, f"the body arrived at less than {limits.body_rate} bytes per second")
        else:
            self._set_timer(limits.body_s, self._check_body)

    # --- refusals ---

    def _refuse(self, status: int, message: str) -> None:
        """Stop parsing the request. Uvicorn then calls `send_400_response`, and it sends `status` and `message`."""
        self._refusal = (status, message)
        raise ValueError(message)

    def send_400_response(self, msg: str) -> None:
        """Send the status and message of `_refuse`. Uvicorn calls this method after a parsing error."""
        self._close_with(*self._refusal)

    def _close_with(self, status: int, message: str) -> None:
        """Close the connection. If the current response has not started, first send an error with `status`."""
        if self.transport.is_closing():
            return
        started = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not started and not self.pipeline:
            body = b'{"error":{"message":"%s","type":"invalid_request_error","code":%d}}' % (message.encode(), status)
            retry_after = b"retry-after: 1\r\n" if status == 503 else b""
            self.transport.write(
                b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\n%sconnection: close\r\n\r\n%s"
                % (status, len(body), retry_after, body)
            )
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self.loop.call_later(_CLOSE_TIMEOUT_S, self.transport.abort)  # `close` alone would wait for the client

    # --- response ---

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.shared.limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


class _WebSocket(WebSocketsSansIOProtocol):
    """One WebSocket. A message counts towards `held_bytes` until the application requests the next message."""

    shared: _Shared

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.held = 0
        self._unix_socket = False
        self._unfinished = self._processing = 0  # bytes of the arriving message, and of the message being processed
        self._queued: deque[int] = deque()
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._unix_socket = _is_unix_socket(transport)
        self.shared.open += not self._unix_socket

    def connection_lost(self, exc: Exception | None) -> None:
        self.shared.open -= not self._unix_socket
        self.shared.release(self)
        self.frames = []
        self.conn.reader.buffer.clear()  # the buffer is in a reference cycle: free its memory now
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self._unix_socket:
            self._unfinished += len(data)
            self.shared.hold(self, len(data))
        super().data_received(data)
        if len(self.frames) > self.shared.limits.fragments:
            self.transport.abort()
        elif not self.frames and not self.conn.reader.buffer:  # no incomplete message: the bytes were pings and pongs
            self.shared.give_back(self, min(self._unfinished, self.held))
            self._unfinished = 0
            self.shared.arriving.pop(self, None)

    def close_overloaded(self) -> None:
        """Abort this connection, because the unfinished requests of all connections exceed `held_bytes`."""
        self.transport.abort()

    def send_receive_event_to_app(self) -> None:
        self._queued.append(self._unfinished)
        self._unfinished = 0
        self.shared.arriving.pop(self, None)
        if self.queue.qsize() >= self.shared.limits.pipelined:
            self.transport.abort()
            return
        super().send_receive_event_to_app()

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next message. The application has processed the previous message, so its bytes no longer count."""
        self.shared.give_back(self, min(self._processing, self.held))
        self._processing = 0
        message = await super().receive()
        if message["type"] == "websocket.receive":
            self._processing = self._queued.popleft()
        return message

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()  # the server would write a pong for each ping that it reads
        self._write_timer = self.loop.call_later(self.shared.limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
