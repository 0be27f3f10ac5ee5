"""HTTP and WebSocket protocols for uvicorn that a client cannot hold up or fill: connections, headers, bodies, time.

    uvicorn.Config(app, **bounded(Limits(body_bytes=16 << 20)))

Uvicorn bounds neither the number of connections, nor the size and number of headers, nor the time in which a request
must arrive, nor what unfinished requests of all clients hold in memory together. An ASGI application sees none of it.
Connections over a Unix socket come from processes of the server itself: they do not count.
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

_FAREWELL_S = 5.0  # for the last bytes of a connection that is closed
_SPARE_DESCRIPTORS = 64  # that a server needs for other things than connections


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one server process allows its clients."""

    body_bytes: int  # a request's body, as the application limits it; what is longer is streamed by it
    held_bytes: int = 64 << 20  # all requests and frames together that have not been answered
    frame_bytes: int = 1 << 20  # one message of a WebSocket
    connections: int = 4096  # beyond it the connection that has waited longest without a request is closed
    header_bytes: int = 64 << 10  # with the address
    headers: int = 128
    header_s: float = 10.0  # from the first byte of a request, or from connecting, to the end of its headers
    body_s: float = 10.0  # how often the progress of a body is looked at
    body_rate: int = 1024  # bytes a second that a body has to make
    write_s: float = 120.0  # how long a client may leave an answer unread
    streamed: re.Pattern[bytes] | None = None  # addresses whose bodies do not count as held: the application keeps none
    pipelined: int = 16  # requests, or messages of a WebSocket, that a client may send ahead of the answers
    fragments: int = 1024  # of one message of a WebSocket


def bounded(limits: HttpLimits) -> dict[str, Any]:
    """Arguments for `uvicorn.Config`. Each call makes a server of its own; its connections share the limits."""
    shared = _Shared(limits)
    http = type("BoundedHttp", (_Http,), {"shared": shared})
    websocket = type("BoundedWebSocket", (_WebSocket,), {"shared": shared})
    return {"http": http, "ws": websocket, "ws_per_message_deflate": False, "ws_max_size": limits.frame_bytes}


class _Shared:
    """What the connections of one server have in common."""

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        self.connections = min(limits.connections, _descriptors() - _SPARE_DESCRIPTORS)
        self.held = 0  # bytes of requests and frames that are not answered
        self.open = 0
        self.waiting: dict[_Http, None] = {}  # connections without a request, the longest first
        self.arriving: dict[_Http | _WebSocket, None] = {}  # those whose request or message is not whole

    def hold(self, who: _Http | _WebSocket, size: int) -> None:
        """Count bytes that have arrived. Above the limit the connection with the largest incomplete request is closed:
        one client cannot use up the limit for the others.
        """
        who.held += size
        self.held += size
        self.arriving[who] = None
        while self.held > self.limits.held_bytes and self.arriving:
            victim = max(self.arriving, key=lambda one: one.held)
            self.release(victim)
            victim.cut_off()

    def release(self, who: _Http | _WebSocket) -> None:
        """All that it sent is answered, or will not be."""
        self.give_back(who, who.held)
        self.arriving.pop(who, None)

    def give_back(self, who: _Http | _WebSocket, size: int) -> None:
        """So much of what it sent is answered."""
        self.held -= size
        who.held -= size


def _is_private(transport: asyncio.BaseTransport) -> bool:
    """Whether a connection comes over a Unix socket."""
    end = transport.get_extra_info("socket")
    return end is not None and end.family == socket.AF_UNIX


def _limit_unread(transport: asyncio.BaseTransport, seconds: float) -> None:
    """Have the kernel end a connection whose client acknowledges no data for `seconds`.

    Timers of this module start where the transport pauses writing. It never pauses for the last kilobytes of an answer,
    and a transport that is closed waits for a client to read them.
    """
    end = transport.get_extra_info("socket")
    if end is not None and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(1000 * seconds)))


def _descriptors() -> int:
    """How many files this process may have open; as many as the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS reports more than it grants
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


class _Http(HttpToolsProtocol):
    """One connection. Either it waits for the headers of a request, or a request is being served."""

    shared: _Shared

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None  # for headers or a body
        self._write_timer: asyncio.TimerHandle | None = None
        self._refusal = (400, "Invalid HTTP request received.")
        self._unparsed = 0  # bytes since a request began or a part of its body came
        self._body = self._body_seen = 0
        self._streamed = False
        self._in_body = False  # the headers are here, and the body is not whole
        self._left = False  # the connection is lost, or a WebSocket's
        self.held = 0
        self._counted = True  # whether this connection is one of the shared number
        self._private = False

    # --- connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        shared = self.shared
        self._private = _is_private(transport)
        self._counted = not self._private
        shared.open += self._counted
        if not self._private:
            _limit_unread(transport, shared.limits.write_s)
        if shared.open > shared.connections:
            victim = next(iter(shared.waiting), self)
            shared.waiting.pop(victim, None)
            victim.transport.abort()
            if victim is self:
                return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._leave()
        super().handle_websocket_upgrade()

    def _leave(self) -> None:
        self._left = True
        self._set_timer(None)
        self.shared.release(self)
        if self._write_timer is not None:
            self._write_timer.cancel()
        self.shared.waiting.pop(self, None)
        if self._counted:
            self._counted = False
            self.shared.open -= 1

    def _wait(self) -> None:
        """No request is here: one has to come, or the connection ends."""
        self._offer_place()
        self._set_timer(self.shared.limits.header_s, self._headers_late)

    def _offer_place(self) -> None:
        """Without a request, this connection may be closed for a new one."""
        if self._counted:
            self.shared.waiting[self] = None

    def _set_timer(self, seconds: float | None, then: Any = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, then)

    def _headers_late(self) -> None:
        self._close_with(408, "the headers of a request did not arrive in time")

    # --- request ---

    def data_received(self, data: bytes) -> None:
        limits = self.shared.limits
        self._unparsed += len(data)
        super().data_received(data)
        incomplete = self._in_body or self._unparsed  # most requests arrive whole and need no timer
        if incomplete and self._timer is None and not self._left and not self.transport.is_closing():
            if self._in_body:
                self._set_timer(limits.body_s, self._look_at_body)
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
        if self._unparsed > limits.header_bytes:  # which counts bytes of a body, too, that came along
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > limits.header_bytes:
                self._refuse(431, f"the address and headers are larger than {limits.header_bytes} bytes")
        if len(self.pipeline) >= limits.pipelined:
            self._refuse(400, f"more than {limits.pipelined} requests were sent ahead of their answers")
        self._unparsed = 0
        self._streamed = limits.streamed is not None and limits.streamed.match(self.url) is not None
        self._streamed |= self._private
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
            self._offer_place()  # uvicorn's own timer ends a connection that is kept and not used

    def cut_off(self) -> None:
        """The server holds too much."""
        self._close_with(503, "the server holds too many unfinished requests; try again")

    def _look_at_body(self) -> None:
        """A body has to come at a rate, unless it is this server that does not read it."""
        limits = self.shared.limits
        new, self._body_seen = self._body - self._body_seen, self._body
        ours = self.flow.read_paused or self.cycle.waiting_for_100_continue
        if new < limits.body_rate * limits.body_s and not ours:
            self._close_with(408, f"the body came at less than {limits.body_rate} bytes a second")
        else:
            self._set_timer(limits.body_s, self._look_at_body)

    # --- refusals ---

    def _refuse(self, status: int, message: str) -> None:
        """End the parsing of a request, whose error then is this one."""
        self._refusal = (status, message)
        raise ValueError(message)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn where parsing has ended with an error."""
        self._close_with(*self._refusal)

    def _close_with(self, status: int, message: str) -> None:
        """Answer, unless an answer has begun, and close."""
        if self.transport.is_closing():
            return
        started = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not started and not self.pipeline:
            body = b'{"error":{"message":"%s","type":"invalid_request_error","code":%d}}' % (message.encode(), status)
            more = b"retry-after: 1\r\n" if status == 503 else b""
            self.transport.write(
                b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\n%sconnection: close\r\n\r\n%s"
                % (status, len(body), more, body)
            )
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self.loop.call_later(_FAREWELL_S, self.transport.abort)  # for a client that does not read

    # --- answer ---

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.shared.limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


class _WebSocket(WebSocketsSansIOProtocol):
    """One socket. A message counts among what the server holds from its first bytes until the application asks for the
    next one.
    """

    shared: _Shared

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.held = 0
        self._private = False
        self._unfinished = self._answering = 0  # bytes of the message that arrives, and of the application's
        self._queued: deque[int] = deque()
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._private = _is_private(transport)
        self.shared.open += not self._private

    def connection_lost(self, exc: Exception | None) -> None:
        self.shared.open -= not self._private
        self.shared.release(self)
        self.frames = []
        self.conn.reader.buffer.clear()  # it is part of cycles that the garbage collector may find much later
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self._private:
            self._unfinished += len(data)
            self.shared.hold(self, len(data))
        super().data_received(data)
        if len(self.frames) > self.shared.limits.fragments:
            self.transport.abort()
        elif not self.frames and not self.conn.reader.buffer:  # pings and pongs alone
            self.shared.give_back(self, min(self._unfinished, self.held))
            self._unfinished = 0
            self.shared.arriving.pop(self, None)

    def cut_off(self) -> None:
        """The server holds too much."""
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
        """What the application asks for when it has done with the message before."""
        self.shared.give_back(self, min(self._answering, self.held))
        self._answering = 0
        message = await super().receive()
        if message["type"] == "websocket.receive":
            self._answering = self._queued.popleft()
        return message

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()  # every ping that is read is answered
        self._write_timer = self.loop.call_later(self.shared.limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
