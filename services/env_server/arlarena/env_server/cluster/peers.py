"""The other workers of a server and the other pods of a deployment. Workers and pods are both called members here. Each
session is held by one member. A request about a session is forwarded to the member that holds the session.

A session's id begins with the name of its member: `0w1-…` is worker 1 of the server with the setting `shard` = 0, and
`p3-…` is pod 3. The members therefore need no shared table of sessions. They forward requests to each other's public
HTTP routes:

- Workers connect through Unix sockets in a private folder. A forwarded request has the header `HOP` and is not
  forwarded again.
- Pods connect through their public addresses. A forwarded request has the header `POD_HOP`. A client could also send
  this header, so the receiving pod checks the token again.
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

# Headers of forwarded requests. CLIENT and TENANT describe the client that sent the original request to a worker.
HOP, POD_HOP = "x-arlarena-hop", "x-arlarena-pod-hop"
CLIENT, TENANT = "x-arlarena-client", "x-arlarena-tenant"
# A member that forwards a request passes on these headers of the reply and these headers of the request.
REPLY_HEADERS = ("Retry-After", "ETag", "Cache-Control", "Mcp-Session-Id")
REQUEST_HEADERS = ("Mcp-Session-Id", "Mcp-Protocol-Version")
# Maximum seconds for a complete reply of another member. A member that takes longer is treated as unavailable.
ANSWER_S = 120.0
CONNECT_S = 10.0
# Size of the read buffer in bytes. A batch reply of a few 100 KB fits. A reply above this size is read with pauses and
# takes longer.
READ_BUFFER = 4 << 20

T = TypeVar("T")


def socket_path(directory: Path, worker: int) -> Path:
    """Returns the path of the Unix socket on which a worker accepts requests of other workers."""
    return directory / f"worker-{worker}.sock"


def shard_of(base: str, worker: int) -> str:
    """Returns the `shard` of a worker: the beginning of its session ids. `base`: the setting `shard` of the server."""
    return f"{base}w{worker}"


class ClusterMembers:
    """A group of members (workers or pods), by number. Each member holds some of the sessions."""

    kind = "server"

    def __init__(self, id_pattern: str, index: int) -> None:
        """`id_pattern`: a regular expression for the beginning of a session id. The first group of this expression is
        the number of the member that holds the session. `index`: the number of the member of this process.
        """
        self.index = index
        self._id_pattern = re.compile(id_pattern)
        self._http_clients: dict[int, aiohttp.ClientSession] = {}

    def holder(self, name: str | None) -> int | None:
        """Returns the number of the other member that holds a session or snapshot. `name`: the id. Returns None if this
        member holds it, if the id does not have the form of this group's ids, or if `name` is None.
        """
        match = self._id_pattern.match(name or "")
        return int(match.group(1)) if match and int(match.group(1)) != self.index else None

    def _url(self, number: int) -> str:
        """Returns the base URL of a member."""
        raise NotImplementedError

    def _http_client(self, number: int) -> aiohttp.ClientSession:
        """Returns the HTTP client for requests to a member."""
        raise NotImplementedError

    def caller_headers(self, caller: Caller) -> dict[str, str]:
        """Returns headers that identify the caller to another member."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close all connections."""
        for session in self._http_clients.values():
            await session.close()
        self._http_clients.clear()

    async def send(
        self, worker: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Response:
        """Send a request to another member. Returns the response, even if its status is an error.

        Raises:
            ApiError: 503 if the member does not answer. If the member has died, its sessions are lost.
        """
        try:
            async with self._http_client(worker).request(
                method, self._url(worker) + path, data=body, headers=headers
            ) as reply:
                headers_kept = {name: reply.headers[name] for name in REPLY_HEADERS if name in reply.headers}
                content_type = reply.headers.get("Content-Type")
                return Response(await reply.read(), reply.status, headers_kept, content_type)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unavailable(worker, error) from error

    def _unavailable(self, number: int, error: BaseException, problem: str = "does not answer") -> ApiError:
        member = f"{self.kind} {number}"
        message = f"{member} {problem} ({type(error).__name__}); the sessions of this {self.kind} may be lost"
        return ApiError(503, f"{self.kind}_away", message, "infra", True, 1.0)

    async def forward(self, worker: int, request: Request, body: bytes, caller: Caller) -> Response:
        """Send a client's request to another member and return the response.

        Raises:
            ApiError: 503 if the member does not answer.
        """
        query = f"?{request.url.query}" if request.url.query else ""
        passed = {name: request.headers[name] for name in REQUEST_HEADERS if name in request.headers}
        return await self.send(
            worker, request.method, request.url.path + query, body, passed | self.caller_headers(caller)
        )

    async def ask(
        self,
        worker: int,
        method: str,
        path: str,
        kind: type[T],
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> T:
        """Send a request to another member and return the body of the reply as a value of type `kind`.

        Raises:
            ApiError: the error in the reply. 503 if the member does not answer, or if the body of the reply is not
                readable.
        """
        reply = await self.send(worker, method, path, body, headers)
        try:
            if reply.status_code < 400:
                return msgspec.json.decode(reply.body, type=kind)
            error = msgspec.json.decode(reply.body, type=Error)
        except msgspec.MsgspecError as unreadable:  # for example, an error reply of uvicorn is not JSON
            raise self._unavailable(worker, unreadable, "sent an unreadable reply") from unreadable
        raise ApiError(reply.status_code, error.code, error.message, error.blame, error.retryable)

    async def forward_socket(self, worker: int, socket: WebSocket, caller: Caller) -> None:
        """Pass frames between a client's socket and another member until one of them closes the connection."""
        path = socket.url.path + (f"?{socket.url.query}" if socket.url.query else "")
        async with self._http_client(worker).ws_connect(
            self._url(worker) + path, headers=self.caller_headers(caller), max_msg_size=0, timeout=_CLOSE
        ) as peer:
            pumps = [
                asyncio.ensure_future(_client_to_peer(socket, peer)),
                asyncio.ensure_future(_peer_to_client(peer, socket)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)


class Peers(ClusterMembers):
    """The workers of one server. `base_shard`: the setting `shard` of the server. `index`: the number of this worker.
    `count`: the number of workers. `directory`: the folder with the Unix sockets of the workers.
    """

    kind = "worker"

    def __init__(self, base_shard: str, index: int, count: int, directory: Path) -> None:
        super().__init__(re.escape(base_shard) + r"w(\d{1,6})-", index)
        self.count = count
        self._directory = directory

    @property
    def others(self) -> list[int]:
        """The numbers of all other workers. The list begins with the number after this worker's own number. If several
        workers are full, they therefore do not all send new sessions to the same worker first.
        """
        return [(self.index + step) % self.count for step in range(1, self.count)]

    def holder(self, name: str | None) -> int | None:
        """Does the same as `ClusterMembers.holder`, but also returns None if the worker in the id does not exist."""
        worker = super().holder(name)
        return worker if worker is not None and worker < self.count else None

    def _url(self, number: int) -> str:
        return "http://peer"

    def _http_client(self, number: int) -> aiohttp.ClientSession:
        if number not in self._http_clients:
            connector = aiohttp.UnixConnector(str(socket_path(self._directory, number)), limit=0)
            self._http_clients[number] = aiohttp.ClientSession(
                connector=connector, timeout=_TOTAL, headers={HOP: "1"}, read_bufsize=READ_BUFFER
            )
        return self._http_clients[number]

    def caller_headers(self, caller: Caller) -> dict[str, str]:
        """Returns the caller's address and tenant, because the other workers do not check the token again."""
        return {CLIENT: caller.address} | ({} if caller.tenant is None else {TENANT: caller.tenant})

    async def ask_all(self, path: str, kind: type[T], caller: Caller = UNKNOWN_CALLER) -> list[T]:
        """Send a GET request to all other workers. Returns the replies of the workers that answer without an error."""
        headers = self.caller_headers(caller)
        asked = (self.ask(worker, "GET", path, kind, headers=headers) for worker in self.others)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def free_capacity(self) -> list[int]:
        """Returns how many sessions each worker in `others` can open now. A worker that does not answer counts as 0."""
        asked = (self.ask(worker, "GET", "/v1/capacity", Capacity) for worker in self.others)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [answer.available if isinstance(answer, Capacity) else 0 for answer in answers]


class Pods(ClusterMembers):
    """The pods of one deployment. A load balancer may send a request to any pod. That pod forwards the request to the
    pod that holds the session.
    """

    kind = "pod"

    def __init__(self, template: str, index: int) -> None:
        """`template`: the URL of the pods with {pod} in place of the number, such as http://env-{pod}.env:8000.
        `index`: the number of this pod.
        """
        super().__init__(r"p(\d{1,6})(?:w\d+)?-", index)
        self._template = template

    def _url(self, number: int) -> str:
        return self._template.format(pod=number)

    def _http_client(self, number: int) -> aiohttp.ClientSession:
        # All pods share one HTTP client. A request's id can contain an invented pod number. With one HTTP client for
        # each pod, such requests would make this process create any number of HTTP clients.
        if not self._http_clients:
            self._http_clients[0] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=_TOTAL,
                headers={POD_HOP: "1"},
                read_bufsize=READ_BUFFER,
            )
        return self._http_clients[0]

    def caller_headers(self, caller: Caller) -> dict[str, str]:
        """Returns the caller's token, because the other pods check it again."""
        return {} if caller.authorization is None else {"Authorization": caller.authorization}


_CLOSE = aiohttp.ClientWSTimeout(ws_close=5.0)
_TOTAL = aiohttp.ClientTimeout(total=ANSWER_S, sock_connect=CONNECT_S)


async def _client_to_peer(socket: WebSocket, peer: aiohttp.ClientWebSocketResponse) -> None:
    """Pass frames from the client to the peer until the client disconnects. If the client's connection is lost, abort
    the connection to the peer. The peer then also sees a lost connection and keeps the session open for a reconnect.
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


async def _peer_to_client(peer: aiohttp.ClientWebSocketResponse, socket: WebSocket) -> None:
    """Pass frames from the peer to the client. When the peer closes, close the client's socket with the same code."""
    async for message in peer:
        await socket.send_text(message.data)
    try:
        await socket.close(peer.close_code or 1011)
    except (RuntimeError, WebSocketDisconnect):
        return


def is_hop(connection: HTTPConnection) -> bool:
    """True if another worker forwarded this request. Such a request has the header `HOP` and came through the Unix
    socket, so the server's address has no port. The client's address cannot be used for this check: if a TCP client has
    reset its connection, the client's address is also missing.
    """
    server = connection.scope.get("server")
    return server is not None and server[1] is None and HOP in connection.headers


def is_pod_hop(connection: HTTPConnection) -> bool:
    """True if the request has the header `POD_HOP`."""
    return POD_HOP in connection.headers


def split_by_size(values: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    """Split `values` into consecutive parts of the given sizes. If `values` has fewer than two elements, each part
    equals `values`.
    """
    if len(values) < 2:
        return [list(values)] * len(sizes)
    parts, start = [], 0
    for size in sizes:
        parts.append(list(values[start : start + size]))
        start += size
    return parts
