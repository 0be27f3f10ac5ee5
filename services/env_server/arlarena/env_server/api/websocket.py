"""The WebSocket route, with OpenEnv's frames (JSON messages). Each socket has one session. Each frame of the client,
except `close`, gets one reply frame.

    > {"type":"reset","data":{"seed":3}}      < {"type":"observation","data":{"observation":…,"reward":null,…}}
    > {"type":"step","data":{"text":"up"}}    > {"type":"state"}    > {"type":"close"}

After an error reply, the socket stays open. There is one exception: if the socket gets no session, the server sends an
error and closes the socket.

If the client closes the socket, the server ends the session that was opened for the socket. If the connection is lost,
this session stays open for `reattach_grace_s` seconds, but not longer than its `ttl_s`. During this time the client
can reconnect with `/ws?session_id=…`. If a session expires while its socket is open, or if the server shuts
down, the server sends an error and closes the socket.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import Any, cast

import aiohttp
import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from arlarena.env_server.api import mcp
from arlarena.env_server.api.json_codec import decode, encode, parse
from arlarena.env_server.cluster.peers import ClusterMembers, is_hop, is_pod_hop
from arlarena.env_server.errors import ApiError
from arlarena.env_server.sessions.service import EnvironmentService
from arlarena.env_server.sessions.store import Caller, ServerSession
from arlarena.proto.env_api import Action, ResetSpec

CLOSE_NORMAL = 1000
CLOSE_GOING_AWAY = 1001
CLOSE_UNEXPECTED = 1011
CLOSE_TRY_LATER = 1013

# Maximum seconds for sending an error and closing a socket. A client that does not read could block both actions.
HANG_UP_TIMEOUT_S = 5.0
# Maximum seconds for which a new socket of a session waits for the previous socket to close.
DETACH_TIMEOUT_S = 1.0


class SocketFrame(msgspec.Struct):
    """A frame of the client. `data` stays raw JSON, because its type depends on `type`."""

    type: str
    data: msgspec.Raw = msgspec.Raw(b"{}")


def _error(code: str, message: str, **fields: Any) -> bytes:
    return encode({"type": "error", "data": {"message": message, "code": code, **fields}})


def _error_of(error: ApiError) -> bytes:
    """Returns the error frame for a request that has failed."""
    if error.status == 422:
        return _error("VALIDATION_ERROR", error.message, errors=error.to_reply().detail)
    return _error("EXECUTION_ERROR", error.message, errors=[{"type": error.code, "msg": error.message}])


class SocketSession:
    """One socket and its session."""

    def __init__(self, socket: WebSocket, service: EnvironmentService, session: ServerSession) -> None:
        self._socket = socket
        self._service = service
        self._session = session

    async def run(self) -> None:
        """Answer frames until the client sends the frame `close`.

        Raises:
            WebSocketDisconnect: the client has closed the socket without the frame `close`, or the connection is lost.
        """
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", CLOSE_NORMAL), message.get("reason"))
            raw = message.get("bytes") or (message.get("text") or "").encode()
            answer = await self.answer(raw)
            if answer is None:
                return
            await self._socket.send_text(answer.decode())

    async def hang_up(self, message: str) -> None:
        """Send the error `message` and close the socket. Gives up after `HANG_UP_TIMEOUT_S` seconds."""
        try:
            async with asyncio.timeout(HANG_UP_TIMEOUT_S):
                await self._socket.send_text(_error("SESSION_ERROR", message).decode())
                await self._socket.close(CLOSE_GOING_AWAY)
        except (TimeoutError, RuntimeError, OSError, WebSocketDisconnect) as error:
            self._service.log.info("hang_up", session=self._session.id, error=repr(error))

    async def answer(self, raw: bytes) -> bytes | None:
        """Returns the reply to one frame, or None for the frame `close`."""
        try:
            frame = decode(raw, SocketFrame)
        except ApiError as error:
            code = "INVALID_JSON" if error.code == "invalid_json" else "VALIDATION_ERROR"
            return _error(code, error.message)
        if frame.type == "close":
            return None
        if frame.type not in ("reset", "step", "state", "mcp"):
            return _error("UNKNOWN_TYPE", f"unknown type {frame.type!r}; known: reset, step, state, mcp, close")
        try:
            return encode(await self._carry_out(frame))
        except ApiError as error:
            self._service.metrics.errors.labels(error.code).inc()
            return _error_of(error)
        except Exception as error:
            self._service.metrics.errors.labels("internal").inc()
            self._service.log.error("frame_failed", type=frame.type, error=repr(error), stack=traceback.format_exc())
            message = f"{frame.type} failed: {type(error).__name__}; the server's log has the details"
            return _error("EXECUTION_ERROR", message)

    async def _carry_out(self, frame: SocketFrame) -> dict[str, Any]:
        service = self._service
        session = service.store.get(self._session.id, self._session.tenant)
        data = bytes(frame.data)
        if data == b"null":
            data = b"{}"
        if frame.type == "mcp":
            return {"type": "mcp", "data": await mcp.answer(service, data, session, session.caller)}
        if frame.type == "state":
            return {"type": "state", "data": service.state(session)}
        if frame.type == "reset":
            result = await service.reset(session, parse(data, ResetSpec))
        else:
            result = await service.step(session, parse(data, Action).text)
        return {"type": "observation", "data": result}


async def _wait_until_detached(session: ServerSession) -> None:
    """Wait until no socket uses the session. A new socket can open before the previous socket's close frame arrives.

    Raises:
        ApiError: 409 if a socket still uses the session after `DETACH_TIMEOUT_S` seconds.
    """
    try:
        async with asyncio.timeout(DETACH_TIMEOUT_S):
            while session.attached:  # another waiting socket may have attached to the session first
                await session.detached.wait()
    except TimeoutError:
        raise ApiError(409, "attached", f"session {session.id!r} is already used by another socket") from None


async def _attach(socket: WebSocket, service: EnvironmentService, caller: Caller) -> ServerSession | None:
    """Attach a session to the socket and return the session. If the URL has no session id, open a new session. If an
    error occurs, send an error frame, close the socket and return None.
    """
    session_id = socket.query_params.get("session_id")
    try:
        if session_id:
            session = service.store.get(session_id, caller.tenant)
        else:
            (session,) = service.store.open(1, caller=caller)
        await _wait_until_detached(session)
    except ApiError as error:
        service.metrics.errors.labels(error.code).inc()
        counts = {"active_sessions": len(service.store), "max_sessions": service.settings.capacity}
        if error.status in (429, 503):
            await socket.send_text(_error("CAPACITY_REACHED", error.message, **counts).decode())
            await socket.close(CLOSE_TRY_LATER)
        else:
            await socket.send_text(_error("SESSION_ERROR", error.message).decode())
            await socket.close(CLOSE_UNEXPECTED)
        return None
    session.detached.clear()
    service.metrics.sessions.set(len(service.store))
    return session


async def _other_member(socket: WebSocket, service: EnvironmentService) -> tuple[ClusterMembers, int] | None:
    """Returns the other pod or worker that must serve this socket. Returns None if this process must serve it.

    If the URL has a session id, the member that holds the session serves the socket. If the URL has no session id and
    this worker is full, another worker serves the socket.
    """
    if is_hop(socket):
        return None
    session_id = socket.query_params.get("session_id")
    pods, peers = None if is_pod_hop(socket) else service.pods, service.peers
    for members in (pods, peers):
        if members is not None and (holder := members.holder(session_id)) is not None:
            return members, holder
    if peers is None or session_id or service.store.free():
        return None
    free = (worker for worker, free in zip(peers.others, await peers.free_capacity(), strict=True) if free)
    return next(((peers, worker) for worker in free), None)


async def serve(socket: WebSocket) -> None:
    """Serve one socket of /ws until it is closed. If another worker or pod must serve it, forward its frames."""
    service = cast(EnvironmentService, socket.app.state.service)
    await socket.accept()
    try:
        caller = service.access.caller(socket)  # before forwarding, because other workers do not check the token again
        if (member := await _other_member(socket, service)) is not None:
            members, number = member
            await members.forward_socket(number, socket, caller)
            return
    except (ApiError, aiohttp.ClientError, OSError) as error:
        message = str(error) if isinstance(error, ApiError) else f"the session's worker does not answer: {error}"
        await socket.send_text(_error("SESSION_ERROR", message).decode())
        await socket.close(CLOSE_UNEXPECTED)
        return
    session = await _attach(socket, service, caller)
    if session is None:
        return
    socket_session = SocketSession(socket, service, session)
    session.hang_up = socket_session.hang_up
    try:
        await socket_session.run()
    except WebSocketDisconnect as left:
        if "session_id" not in socket.query_params:  # the session was opened for this socket
            if left.code == CLOSE_NORMAL:
                service.store.discard([session])
            service.store.shorten(session, service.settings.reattach_grace_s)
    else:
        service.store.discard([session])
        await socket.close(CLOSE_NORMAL)
    finally:
        session.hang_up = None
        session.detached.set()
        if session.closing:
            service.store.discard([session])
        service.metrics.sessions.set(len(service.store))
