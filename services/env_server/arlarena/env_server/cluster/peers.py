"""The other workers of a server, and the other pods of a set. A request about a session is forwarded to the member
that holds it.

A session's id begins with the shard of its holder (`0w1-…`: worker 1 of shard 0; `p3-…`: pod 3), so no table is shared.
Members use the public HTTP routes. Workers use Unix sockets in a private folder; the header `HOP` marks a forwarded
request, which must not be forwarded again. Pods use their public addresses; `POD_HOP` has the same meaning between
pods, and any client may send it.
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
# A peer counts as dead if it does not answer within the longest limit of the work plus this time.
ANSWER_S = 120.0
CONNECT_S = 10.0
# A reply to a batch is some 100 KB; beyond a buffer's size the reader stops and starts again.
READ_BUFFER = 4 << 20

T = TypeVar("T")


def socket_path(directory: Path, worker: int) -> Path:
    """Where a worker listens for its peers."""
    return directory / f"worker-{worker}.sock"


def shard_of(base: str, worker: int) -> str:
    """The shard of a worker; session ids begin with it."""
    return f"{base}w{worker}"


class ClusterMembers:
    """Numbered servers that each hold some of the sessions."""

    kind = "server"

    def __init__(self, shape: str, index: int) -> None:
        """`shape`: matches the beginning of an id, its first group the holder's number; `index`: this one's."""
        self.index = index
        self._shape = re.compile(shape)
        self._sessions: dict[int, aiohttp.ClientSession] = {}

    def holder(self, name: str | None) -> int | None:
        """The number of another member that holds a session or snapshot, else None."""
        found = self._shape.match(name or "")
        return int(found.group(1)) if found and int(found.group(1)) != self.index else None

    def _url(self, number: int) -> str:
        """The URL of a member."""
        raise NotImplementedError

    def _session(self, number: int) -> aiohttp.ClientSession:
        """Connections to it."""
        raise NotImplementedError

    def on_behalf(self, caller: Caller) -> dict[str, str]:
        """Headers that identify the caller to a peer."""
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
            ApiError: 503, the peer does not answer; what it held is lost if it has died.
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
        """Let a peer answer a request."""
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
        """Ask a peer for a value.

        Raises:
            ApiError: what the peer answers if it is an error; 503 where it does not answer.
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
        """Pass frames between a player and the peer that holds the session, until either of them closes."""
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
    """The workers of one server, seen by worker `index` of `count`."""

    kind = "worker"

    def __init__(self, base_shard: str, index: int, count: int, directory: Path) -> None:
        super().__init__(re.escape(base_shard) + r"w(\d{1,6})-", index)
        self.count = count
        self._directory = directory

    @property
    def others(self) -> list[int]:
        """All other workers, starting with the next one, so that overflow load is spread."""
        return [(self.index + step) % self.count for step in range(1, self.count)]

    def holder(self, name: str | None) -> int | None:
        """See `ClusterMembers`; a worker that this server does not have holds nothing."""
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
        """The answers of all reachable peers."""
        headers = self.on_behalf(caller)
        asked = (self.ask(worker, "GET", path, kind, headers=headers) for worker in self.others)
        found = await asyncio.gather(*asked, return_exceptions=True)
        return [answer for answer in found if not isinstance(answer, BaseException)]

    async def room(self) -> list[int]:
        """How many sessions each of `others` can open now; one that does not answer has no room."""
        asked = (self.ask(worker, "GET", "/v1/capacity", Capacity) for worker in self.others)
        found = await asyncio.gather(*asked, return_exceptions=True)
        return [one.available if isinstance(one, Capacity) else 0 for one in found]


class Pods(ClusterMembers):
    """The pods of one set. A load balancer may send a request to any pod; it is forwarded to the session's pod."""

    kind = "pod"

    def __init__(self, template: str, index: int) -> None:
        """`template`: their URL with {pod} for the number, such as http://env-{pod}.env:8000 in a StatefulSet."""
        super().__init__(r"p(\d{1,6})(?:w\d+)?-", index)
        self._template = template

    def _url(self, number: int) -> str:
        return self._template.format(pod=number)

    def _session(self, number: int) -> aiohttp.ClientSession:
        if not self._sessions:  # one for all pods: an id may contain any number
            self._sessions[0] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=_TOTAL,
                headers={POD_HOP: "1"},
                read_bufsize=READ_BUFFER,
            )
        return self._sessions[0]

    def on_behalf(self, caller: Caller) -> dict[str, str]:
        """See `ClusterMembers`: all pods know the same tokens."""
        return {} if caller.authorization is None else {"Authorization": caller.authorization}


_CLOSE = aiohttp.ClientWSTimeout(ws_close=5.0)
_TOTAL = aiohttp.ClientTimeout(total=ANSWER_S, sock_connect=CONNECT_S)


async def _inwards(socket: WebSocket, peer: aiohttp.ClientWebSocketResponse) -> None:
    """From the client to the peer. A lost client connection leaves the peer's session open for a reconnect."""
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
    """From the peer to the client, including the close frame."""
    async for message in peer:
        await socket.send_text(message.data)
    try:
        await socket.close(peer.close_code or 1011)
    except (RuntimeError, WebSocketDisconnect):
        return


def is_hop(connection: HTTPConnection) -> bool:
    """Whether a peer passed this on: it has to be answered here. It came by the Unix socket, whose address has no port.
    A client without an address is no sign of it: one that resets its connection at once has none either.
    """
    server = connection.scope.get("server")
    return server is not None and server[1] is None and HOP in connection.headers


def is_pod_hop(connection: HTTPConnection) -> bool:
    """Whether another pod passed this on."""
    return POD_HOP in connection.headers


def slices(values: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    """`values` cut into parts of these sizes; where there are fewer than two, each part gets what there is."""
    if len(values) < 2:
        return [list(values)] * len(sizes)
    out, start = [], 0
    for size in sizes:
        out.append(list(values[start : start + size]))
        start += size
    return out
