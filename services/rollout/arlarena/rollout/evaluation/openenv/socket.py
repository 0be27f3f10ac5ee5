"""A WebSocket connection to an OpenEnv server. It sends requests, and converts OpenEnv's errors to ServiceErrors.

A server keeps a session while the socket is open. The server sends pings, and closes a socket that sends no pong in
time. aiohttp sends pongs only while the socket is read. A background task therefore reads the socket all the time, also
while a model generates a reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import msgspec

from arlarena.client.errors import AtCapacity, ProtocolError, Refused, ServiceError, SessionLost, Unavailable
from arlarena.client.transport import QUOTE_CHARS, Timeouts

# Maximum bytes of a frame from the server. Text observations take kilobytes. A screenshot in base64 takes megabytes.
MAX_FRAME_BYTES = 16 << 20
# Maximum number of unread frames. A server sends at most one frame without a request: an error when it ends a session.
MAX_UNREAD_FRAMES = 4
# Pause before the next attempt to open a session on a full server, in seconds. OpenEnv sends no Retry-After.
FULL_RETRY_S = 1.0
# Maximum seconds for sending and receiving close frames. If the connection is lost, the server also ends the session.
CLOSE_TIMEOUT_S = 2.0
VALIDATION_STATUS = 422  # HTTP status for an action that does not match the schema, as in OpenEnv's HTTP API

Operation = Literal["reset", "step", "state"]


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """Options for opening a socket.

    Attributes:
        timeouts: timeouts of the connection and of requests.
        token: bearer token, or None.
        max_frame_bytes: maximum size in bytes of a frame from the server.
    """

    timeouts: Timeouts
    token: str | None = None
    max_frame_bytes: int = MAX_FRAME_BYTES


class OpenEnvSocket:
    """An open socket and its session on the server. Requests must not overlap."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, address: str, options: SocketOptions) -> None:
        """Start to read an open WebSocket. Callers use `connect` instead."""
        self.address, self._socket, self._options = address, socket, options
        self._frames: asyncio.Queue[str | bytes] = asyncio.Queue(MAX_UNREAD_FRAMES)
        self._failure: ServiceError | None = None  # why the reader ended
        self._broken: ServiceError | None = None  # set after a failed request, because its reply may still arrive
        self._ended = asyncio.Event()
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    async def connect(cls, pool: aiohttp.ClientSession, url: str, options: SocketOptions) -> OpenEnvSocket:
        """Open a socket, and wait until the server has created its session.

        Raises:
            AtCapacity: the server has no free session.
            Unavailable: the server is unreachable or failing.
            Refused: the server does not have the route /ws, or rejects the token.
            ProtocolError: the server's response does not follow OpenEnv's protocol.
        """
        address = f"{url}/ws"
        headers = {"authorization": f"Bearer {options.token}"} if options.token else {}
        try:
            async with asyncio.timeout(options.timeouts.connect_s):
                socket = await pool.ws_connect(
                    address,
                    headers=headers,
                    max_msg_size=options.max_frame_bytes,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                )
        except TimeoutError as error:
            raise Unavailable(f"{address}: no connection within {options.timeouts.connect_s:g} s") from error
        except aiohttp.WSServerHandshakeError as error:
            raise _handshake_error(address, error) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{address}: {str(error) or type(error).__name__}") from error
        opened = cls(socket, address, options)
        try:
            await opened.request("state")
        except Refused:
            return opened  # the session exists, but has no state before its first reset
        except BaseException:
            await opened.close()
            raise
        return opened

    async def request(self, operation: Operation, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request, and return the field `data` of the reply.

        Raises:
            AtCapacity, SessionLost, Unavailable: see these classes. The socket must not be used again.
            Refused: the server refuses the request. If the status is 422, the data does not match the schema, and the
                socket can be used again.
            ProtocolError: the reply is invalid or too large. The socket must not be used again.
        """
        if self._broken is not None:
            raise self._broken
        early = not self._frames.empty()  # the server sent a frame before this request
        if not early and self._failure is not None:
            raise self._failure
        frame = {"type": operation} if data is None else {"type": operation, "data": data}
        try:
            if not early:
                await self._send(msgspec.json.encode(frame).decode())
            data = self._data(operation, await self._next(operation), early)
            if early:
                raise ProtocolError(f"{self.address}: the server sent a frame without a request")
            return data
        except BaseException as error:
            if not isinstance(error, Refused):
                self._broken = SessionLost(f"{self.address}: the session ended after a failed {operation}")
            raise

    async def close(self) -> None:
        """End the session. Errors are ignored, because a lost connection also ends the session."""
        with contextlib.suppress(aiohttp.ClientError, OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                if not self._socket.closed:
                    await self._socket.send_str('{"type":"close"}')
                await self._socket.close()
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        try:
            while True:
                message = await self._socket.receive()
                if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    self._frames.put_nowait(message.data)
                else:
                    self._fail(self._end(message))
                    return
        except asyncio.QueueFull:
            self._fail(ProtocolError(f"{self.address}: the server sends frames without a request"))
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            self._fail(SessionLost(f"{self.address}: {str(error) or type(error).__name__}"))

    def _end(self, message: aiohttp.WSMessage) -> ServiceError:
        error = message.data
        if isinstance(error, aiohttp.WebSocketError):
            if error.code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
                limit = self._options.max_frame_bytes
                return ProtocolError(f"{self.address}: a frame from the server is larger than {limit} bytes")
            return ProtocolError(f"{self.address}: the server sent an invalid frame: {error}")
        if self._socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
            return Refused(f"{self.address}: the action is larger than the server accepts", 413)
        return SessionLost(f"{self.address}: the server closed the connection (code {self._socket.close_code})")

    def _fail(self, error: ServiceError) -> None:
        self._failure = self._failure or error
        self._ended.set()

    async def _send(self, text: str) -> None:
        try:
            async with asyncio.timeout(self._options.timeouts.request_s):
                await self._socket.send_str(text)
        except TimeoutError as error:
            raise Unavailable(f"{self.address}: the server does not read the request") from error
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            if self._frames.empty():
                raise SessionLost(f"{self.address}: {str(error) or type(error).__name__}") from error

    async def _next(self, operation: Operation) -> str | bytes:
        """Return the next frame from the server."""
        limit = self._options.timeouts.request_s
        frame, ended = asyncio.ensure_future(self._frames.get()), asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait([frame, ended], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if frame.done():
                return frame.result()
            if not self._frames.empty():
                return self._frames.get_nowait()
            raise self._failure or Unavailable(f"{self.address}: no answer to {operation} within {limit:g} s")
        finally:
            frame.cancel()
            ended.cancel()

    def _data(self, operation: Operation, frame: str | bytes, early: bool) -> dict[str, Any]:
        try:
            reply = json.loads(frame)  # unlike msgspec, json accepts NaN; a later check then names the invalid field
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"{self.address}: the reply to {operation} is not JSON ({error})") from None
        kind, data = (reply.get("type"), reply.get("data")) if isinstance(reply, dict) else (None, None)
        if kind == "error" and isinstance(data, dict):
            raise _frame_error(self.address, operation, data, early)
        expected = "state" if operation == "state" else "observation"
        if kind != expected:
            raise ProtocolError(f"{self.address}: type of the reply to {operation} is {_quote(kind)}, not {expected!r}")
        if not isinstance(data, dict):
            raise ProtocolError(f"{self.address}: data of the reply to {operation} is not an object: {_quote(data)}")
        return data


def _frame_error(address: str, operation: Operation, data: dict[str, Any], early: bool) -> ServiceError:
    """Convert an error frame to a ServiceError. `early`: whether the frame arrived before the request."""
    code = data.get("code")
    message = f"{address}: {operation}: {_quote(code)}: {_reasons(data)}"
    match code:
        case "CAPACITY_REACHED":
            return AtCapacity(message, FULL_RETRY_S)
        case "FACTORY_ERROR":
            return Unavailable(message)
        case "SESSION_ERROR":
            # In a step, this code means that the server failed while it reported an error, for example a validator's
            # error. If the step fails with this code in several sessions, the action is the cause.
            return Refused(message, 500) if operation == "step" and not early else SessionLost(message)
        case "VALIDATION_ERROR":
            return Refused(message, VALIDATION_STATUS)
        case "EXECUTION_ERROR":
            # OpenEnv uses this code for all exceptions of an environment. In a reset, an action cannot be the cause.
            return Unavailable(message) if operation == "reset" else Refused(message, 500)
        case "INVALID_JSON" | "UNKNOWN_TYPE":
            return Refused(message, 400)
    return ProtocolError(f"{address}: unknown error code {_quote(code)}: {_reasons(data)}")


def _reasons(data: dict[str, Any]) -> str:
    """Return the message of an error frame, and the messages about invalid fields of an action."""
    details = []
    errors = data.get("errors")
    for error in errors[:3] if isinstance(errors, list) else []:
        if isinstance(error, dict) and isinstance(error.get("msg"), str):
            place = error.get("loc")
            field = ".".join(str(part) for part in place[:5]) if isinstance(place, list) else ""
            details.append(f"{field}: {error['msg']}" if field else error["msg"])
    message = data.get("message")
    text = "; ".join([*([message] if isinstance(message, str) else []), *details])
    return _quote(text)


def _quote(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = text.encode(errors="replace").decode()
    return text if len(text) <= QUOTE_CHARS else text[:QUOTE_CHARS] + "…"


def _handshake_error(address: str, error: aiohttp.WSServerHandshakeError) -> ServiceError:
    message = f"{address}: the server opened no WebSocket: HTTP {error.status}"
    if error.status in (429, 503):
        return AtCapacity(message, FULL_RETRY_S)
    if error.status >= 500:
        return Unavailable(message)
    return Refused(message, error.status)
