"""The other workers of a server and the other pods of a deployment. Both are called members here. Each session is held
by one member. A request about a session is forwarded to the member that holds the session.

A session's id begins with the name of its member: `0w1-…` is worker 1 of the server with shard 0, `p3-…` is pod 3. So
the members need no shared table of sessions. Members send each other requests to the public HTTP routes. Workers
connect through Unix sockets in a private folder. The header `HOP` marks a request that another worker has forwarded.
Such a request is not forwarded again. Pods connect through their public addresses and mark a forwarded request with the
header `POD_HOP`. A client may also send `POD_HOP`, so this header proves nothing about the sender.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from arlarena.env_server.errors import ApiError
from arlarena.env_server.sessions.store import UNKNOWN_CALLER, Caller
from arlarena.proto.env_api import Capacity, Error

HOP, POD_HOP = "x-arlarena-hop", "x-arlarena-pod-hop"
CLIENT, TENANT = "x-arlarena-client", "x-arlarena-tenant"
KEPT_HEADERS = ("Retry-After", "ETag", "Cache-Control", "Mcp-Session-Id")
PASSED_HEADERS = ("Mcp-Session-Id", "Mcp-Protocol-Version")
# Seconds to wait for the complete answer of a peer. A peer that takes longer is treated as unavailable.
ANSWER_S = 120.0
CONNECT_S = 10.0
# Bytes. A batch reply of some 100 KB fits. A larger reply would make the reader pause and resume.
READ_BUFFER = 4 << 20

T = TypeVar("T")


def socket_path(directory: Path, worker: int) -> Path:
    """Returns the path of the Unix socket on which a worker accepts requests of other workers."""
    return directory / f"worker-{worker}.sock"


def shard_of(base: str, worker: int) -> str:
    """Returns the shard of a worker, which is the beginning of its session ids. `base`: the shard of the server."""
    return f"{base}w{worker}"


class ClusterMembers:
    """A group of numbered members. Each member holds some of the sessions."""

    kind = "server"

    def __init__(self, shape: str, index: int) -> None:
        """`shape`: a regular expression for the beginning of a session id. Its first group is the number of the member
        that holds the session. `index`: the number of this process's own member.
        """
        self.index = index
        self._shape = re.compile(shape)
        self._sessions: dict[int, aiohttp.ClientSession] = {}

    def holder(self, name: str | None) -> int | None:
        """Returns the number of the member that holds a session or snapshot. Returns None for an id of this member, for
        an id of another group, and without an id. `name`: the id.
        """
        found = self._shape.match(name or "")
        return int(found.group(1)) if found and int(found.group(1)) != self.index else None

    def _url(self, number: int) -> str:
        """Returns the base URL of a member."""
        raise NotImplementedError

    def _session(self, number: int) -> aiohttp.ClientSession:
        """Returns the HTTP client for requests to a member."""
        raise NotImplementedError

    def on_behalf(self, caller: Caller) -> dict[str, str]:
        """Returns the headers that identify the caller to a member."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def send(
        self, worker: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Response:
        """Send a request to a peer. Returns its response, whatever the status.

        Raises:
            ApiError: 503, the peer does not answer. If the peer has died, its sessions are lost.
        """
        try:
            async with self._session(worker).request(
                method, self._url(worker) + path, data=body, headers=headers
            ) as reply:
                kept = {name: reply.headers[name] for name in KEPT_HEADERS if name in reply.headers}
                content_type = reply.headers.get("Content-Type")
                return Response(await reply.read(), reply.status, kept, content_type)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._away(worker, error) from error

    def _away(self, number: int, error: BaseException) -> ApiError:
        who = f"{self.kind} {number} of this server"
        message = f"{who} does not answer ({type(error).__name__}); a session that it held may be lost"
        return ApiError(503, f"{self.kind}_away", message, "infra", True, 1.0)

    async def forward(self, worker: int, request: Request, body: bytes, caller: Caller) -> Response:
        """Send a client's request to a peer and return the peer's response."""
        query = f"?{request.url.query}" if request.url.query else ""
        passed = {name: request.headers[name] for name in PASSED_HEADERS if name in request.headers}
        return await self.send(worker, request.method, request.url.path + query, body, passed | self.on_behalf(caller))

    async def ask(
        self,
        worker: int,
        method: str,
        path: str,
        kind: type[T],
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> T:
        """Send a request to a peer and return its reply as a value of type `kind`.

        Raises:
            ApiError: the error that the peer replies with, or 503 if the peer does not answer.
        """
        reply = await self.send(worker, method, path, body, headers)
        if reply.status_code >= 400:
            try:
                error = msgspec.json.decode(reply.body, type=Error)
            except msgspec.MsgspecError as unreadable:  # such as the HTTP protocol's own refusals
                raise self._away(worker, unreadable) from unreadable
            raise ApiError(reply.status_code, error.code, error.message, error.blame, error.retryable)
        return msgspec.json.decode(reply.body, type=kind)

    async def carry(self, worker: int, socket: WebSocket, caller: Caller) -> None:
        """Pass frames between a client's socket and a peer until the client or the peer closes the connection."""
        path = socket.url.path + (f"?{socket.url.query}" if socket.url.query else "")
        async with self._session(worker).ws_connect(
            self._url(worker) + path, headers=self.on_behalf(caller), max_msg_size=0, timeout=_CLOSE
        ) as peer:
            pumps = [asyncio.ensure_future(_inwards(socket, peer)), asyncio.ensure_future(_outwards(peer, socket))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)


class Peers(ClusterMembers):
    """The workers of one server. `index`: the number of this process's worker. `count`: the number of workers."""

    kind = "worker"

    def __init__(self, base_shard: str, index: int, count: int, directory: Path) -> None:
        super().__init__(re.escape(base_shard) + r"w(\d{1,6})-", index)
        self.count = count
        self._directory = directory

    @property
    def others(self) -> list[int]:
        """The numbers of all other workers, starting after this worker's own number. So full workers try different
        workers first.
        """
        return [(self.index + step) % self.count for step in range(1, self.count)]

    def holder(self, name: str | None) -> int | None:
        """See `ClusterMembers`. Returns None for the number of a worker that does not exist."""
        worker = super().holder(name)
        return worker if worker is not None and worker < self.count else None

    def _url(self, number: int) -> str:
        return "http://peer"

    def _session(self, number: int) -> aiohttp.ClientSession:
        if number not in self._sessions:
            connector = aiohttp.UnixConnector(str(socket_path(self._directory, number)), limit=0)
            self._sessions[number] = aiohttp.ClientSession(
                connector=connector, timeout=_TOTAL, headers={HOP: "1"}, read_bufsize=READ_BUFFER
            )
        return self._sessions[number]

    def on_behalf(self, caller: Caller) -> dict[str, str]:
        """See `ClusterMembers`."""
        return {CLIENT: caller.address} | ({} if caller.tenant is None else {TENANT: caller.tenant})

    async def ask_all(self, path: str, kind: type[T], caller: Caller = UNKNOWN_CALLER) -> list[T]:
        """Send a GET request to all other workers and return their replies. Workers that fail are left out."""
        headers = self.on_behalf(caller)
        asked = (self.ask(worker, "GET", path, kind, headers=headers) for worker in self.others)
        found = await asyncio.gather(*asked, return_exceptions=True)
        return [answer for answer in found if not isinstance(answer, BaseException)]

    async def room(self) -> list[int]:
        """Returns how many sessions each of `others` can open now, 0 for a worker that does not answer."""
        asked = (self.ask(worker, "GET", "/v1/capacity", Capacity) for worker in self.others)
        found = await asyncio.gather(*asked, return_exceptions=True)
        return [one.available if isinstance(one, Capacity) else 0 for one in found]


class Pods(ClusterMembers):
    """The pods of one deployment. A load balancer may send a request to any pod, which forwards the request to the
    session's pod.
    """

    kind = "pod"

    def __init__(self, template: str, index: int) -> None:
        """`template`: the URL of a pod with {pod} in the place of its number, such as http://env-{pod}.env:8000.
        `index`: the number of this pod.
        """
        super().__init__(r"p(\d{1,6})(?:w\d+)?-", index)
        self._template = template

    def _url(self, number: int) -> str:
        return self._template.format(pod=number)

    def _session(self, number: int) -> aiohttp.ClientSession:
        if not self._sessions:  # one client for all pods: ids come from callers and may contain any number
            self._sessions[0] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=_TOTAL,
                headers={POD_HOP: "1"},
                read_bufsize=READ_BUFFER,
            )
        return self._sessions[0]

    def on_behalf(self, caller: Caller) -> dict[str, str]:
        """See `ClusterMembers`. Passes the caller's token on, because all pods accept the same tokens."""
        return {} if caller.authorization is None else {"Authorization": caller.authorization}


_CLOSE = aiohttp.ClientWSTimeout(ws_close=5.0)
_TOTAL = aiohttp.ClientTimeout(total=ANSWER_S, sock_connect=CONNECT_S)


async def _inwards(socket: WebSocket, peer: aiohttp.ClientWebSocketResponse) -> None:
    """Pass frames from the client to the peer until the client disconnects. If the client's connection was lost, the
    peer connection is aborted, so that the peer keeps the session open for a reconnect.
    """
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            transport = peer.get_extra_info("transport")
            if message.get("code") in (1005, 1006) and transport is not None:
                transport.abort()
            return
        if message.get("text") is not None:
            await peer.send_str(message["text"])
        else:
            await peer.send_bytes(message.get("bytes") or b"")


async def _outwards(peer: aiohttp.ClientWebSocketResponse, socket: WebSocket) -> None:
    """Pass frames from the peer to the client until the peer closes. The close code is passed on."""
    async for message in peer:
        await socket.send_text(message.data)
    try:
        await socket.close(peer.close_code or 1011)
    except (RuntimeError, WebSocketDisconnect):
        return


def is_hop(connection: HTTPConnection) -> bool:
    """True if another worker forwarded this request. Such a request has the header `HOP` and came through the Unix
    socket, whose server address has no port. The client's address proves nothing, because a client that has reset its
    connection has no address.
    """
    server = connection.scope.get("server")
    return server is not None and server[1] is None and HOP in connection.headers


def is_pod_hop(connection: HTTPConnection) -> bool:
    """True if the request has the header of a request that another pod forwarded."""
    return POD_HOP in connection.headers


def slices(values: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    """Split `values` into consecutive parts of the given sizes. If `values` has fewer than two elements, each part is a
    copy of all `values`.
    """
    if len(values) < 2:
        return [list(values)] * len(sizes)
    out, start = [], 0
    for size in sizes:
        out.append(list(values[start : start + size]))
        start += size
    return out
