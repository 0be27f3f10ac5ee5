"""Forwards a request to a replica until the request's deadline. If the replica fails, another replica gets the request,
because sampling can be repeated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from arlarena.inference.api.asgi import Answer, ApiRequest, ApiResponse, Headers, Relay
from arlarena.inference.api.errors import BUSY_RETRY_S, CONTEXT_LENGTH, LOADING_RETRY_S, ClientGone, RequestError
from arlarena.inference.api.request_limits import RequestLimits
from arlarena.inference.gateway.fleet import Fleet
from arlarena.inference.gateway.metrics import GatewayMetrics
from arlarena.inference.gateway.replica import Replica
from arlarena.proto.policy import DEADLINE_HEADER, SESSION_HEADER, VERSIONS_HEADER, ErrorResponse
from arlarena.proto.telemetry import Logger

MAX_ATTEMPTS = 3  # limits how many engines one bad request can crash
SAMPLING_PATHS = frozenset(("/inference/v1/generate", "/v1/completions", "/v1/chat/completions"))
_MAX_RESPONSE = 256 << 20  # bytes; a million log-probs as JSON take half of this
_SEPARATOR = ", "
_OUT_OF_TIME = "the request ran out of time (request_timeout_s)"


class _Failed(Exception):
    """A replica did not answer. Another replica may answer."""


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A running request. `deadline`: in seconds of `time.monotonic`. `disconnected`: done after the client has
    disconnected.
    """

    call: ApiRequest
    deadline: float
    disconnected: asyncio.Future[Any]

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def check(self) -> None:
        """Raises RequestError: 504, the deadline has passed."""
        if self.left_s <= 0:
            raise RequestError(_OUT_OF_TIME, status=504)


class Proxy:
    """Forwards model requests to the replicas."""

    def __init__(
        self,
        fleet: Fleet,
        limit_s: float,
        wait_s: float,
        metrics: GatewayMetrics,
        log: Logger,
        limits: RequestLimits | None = None,
    ) -> None:
        """`limit_s`: most seconds for a request. `wait_s`: most seconds that a request waits for an available replica.
        `limits`: limits that the gateway checks for replicas without such checks (vLLM), None for other replicas.
        """
        self._fleet, self._limit_s, self._wait_s = fleet, limit_s, wait_s
        self._metrics, self._log, self._limits = metrics, log, limits

    async def forward(self, call: ApiRequest) -> Answer:
        """Forward a request to a replica and return the replica's response. Tries at most `MAX_ATTEMPTS` replicas.

        Raises:
            ClientGone: the client disconnected. RequestError: 503 no replica is available, 504 the deadline has passed,
                502 several replicas failed, 400 or 413 the request exceeds `limits`.
        """
        if self._limits is not None and call.body:
            self._limits.check_body(call.body)
        deadline = time.monotonic() + min(call.timeout_s or self._limit_s, self._limit_s)
        pending = PendingRequest(call, deadline, asyncio.ensure_future(call.receive()))
        session, full = call.header(SESSION_HEADER.encode()), set[Replica]()
        answer: Answer | None = None
        why = ""
        try:
            for _ in range(MAX_ATTEMPTS):
                pending.check()
                wait_s = 0.0 if answer is not None else min(self._wait_s, pending.left_s)
                try:
                    replica = await self._fleet.pick(session, full, wait_s)
                except RequestError as error:
                    if answer is not None:
                        return answer  # every replica is full; this is the last 503
                    pending.check()
                    if all(replica.state == "down" for replica in self._fleet.replicas):  # the engines are starting
                        error.retry_after_s = LOADING_RETRY_S
                    raise
                try:
                    answer = await self._ask(replica, pending)
                except _Failed as error:
                    why = str(error)
                    self._metrics.retries.inc()
                    self._log.warning("replica_failed", replica=replica.name, path=call.path, reason=why)
                    continue
                if not (isinstance(answer, ApiResponse) and answer.status == 503):
                    return answer
                full.add(replica)
            if answer is not None:
                return answer
            raise RequestError(f"{MAX_ATTEMPTS} attempts failed; the last: {why}", status=502)
        finally:
            if not isinstance(answer, Relay):
                pending.disconnected.cancel()

    async def _ask(self, replica: Replica, pending: PendingRequest) -> Answer:
        """Send the request to one replica.

        Raises:
            _Failed: the replica did not answer, or its response is not valid. ClientGone: the client disconnected.
            RequestError: 504, the deadline has passed.
        """
        queued = pending.call.path in SAMPLING_PATHS
        try:
            await _unless_disconnected(asyncio.wait_for(replica.enter(queued), pending.left_s), pending.disconnected)
        except TimeoutError:
            raise RequestError(_OUT_OF_TIME, status=504) from None
        mark, streams = max(0, len(replica.history) - 1), False
        try:
            if not replica.open:
                raise _Failed(f"{replica.name} is {replica.state}")
            reply = await _unless_disconnected(self._send(replica, pending), pending.disconnected)
            self._check_stamp(replica, mark, reply)
            if _streams(reply):
                streams = True
                return Relay(reply.status, _headers(reply, replica, mark), self._relay(replica, pending, reply, queued))
            async with reply:
                body = await _unless_disconnected(_read(reply), pending.disconnected)
            if not replica.driver.probes_before_serving and not await asyncio.wait_for(
                replica.settled(), pending.left_s
            ):
                raise _Failed(f"{replica.name} did not pass the probe of its new weights")
            if reply.status >= 400:
                body = _openai_error(body, reply.status)
            return ApiResponse(body, reply.status, reply.content_type.encode(), _headers(reply, replica, mark))
        except TimeoutError:
            raise RequestError(_OUT_OF_TIME, status=504) from None
        except (aiohttp.ClientError, OSError) as error:
            replica.suspect()
            raise _Failed(f"{replica.name}: {error or type(error).__name__}") from error
        finally:
            if not streams:
                replica.leave(queued)

    async def _send(self, replica: Replica, pending: PendingRequest) -> aiohttp.ClientResponse:
        call, left_s = pending.call, max(0.001, pending.left_s)
        headers = {"content-type": "application/json", DEADLINE_HEADER: f"{left_s:.3f}"}
        timeout = aiohttp.ClientTimeout(total=left_s)
        url = replica.url + quote(call.path)  # `call.path` is decoded, and a model's name may contain any character
        return await replica.session.request(
            call.method, url, data=call.body, headers=headers, timeout=timeout, allow_redirects=False
        )

    def _check_stamp(self, replica: Replica, mark: int, reply: aiohttp.ClientResponse) -> None:
        """Refuse a response that was sampled by an unexpected version, because somebody else has restarted the replica.
        `mark`: the position in `replica.history` of the version at the start of the request.

        Raises:
            _Failed: the version is unexpected.
        """
        stamp = reply.headers.get(VERSIONS_HEADER)
        if stamp and not set(stamp.split(_SEPARATOR)) <= set(replica.history[mark:]):
            reply.close()
            replica.suspect()
            raise _Failed(f"{replica.name} sampled with {stamp} and should serve {replica.version}")

    async def _relay(
        self, replica: Replica, pending: PendingRequest, reply: aiohttp.ClientResponse, queued: bool
    ) -> AsyncIterator[bytes]:
        """Yields the events of a stream when they arrive. Ends the request in the replica's count."""
        try:
            async with reply:
                while chunk := await _unless_disconnected(reply.content.readany(), pending.disconnected):
                    yield chunk
                    pending.check()  # aiohttp checks its time limit only when it waits for data
        except TimeoutError:
            raise RequestError(_OUT_OF_TIME, status=504) from None
        except (aiohttp.ClientError, OSError) as error:
            replica.suspect()
            raise RequestError(f"the engine failed while it answered: {error!r}", status=502) from error
        finally:
            replica.leave(queued)
            pending.disconnected.cancel()


async def _read(reply: aiohttp.ClientResponse) -> bytes:
    """Read a complete response.

    Raises:
        aiohttp.ClientError: the response is too large, or the connection broke.
    """
    chunks, size = [], 0
    async for chunk in reply.content.iter_any():
        size += len(chunk)
        if size > _MAX_RESPONSE:
            raise aiohttp.ClientPayloadError(f"the response is larger than {_MAX_RESPONSE} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def _unless_disconnected(work: Any, disconnected: asyncio.Future[Any]) -> Any:
    """Returns the result of `work`. If the client disconnects first, cancels `work`.

    Raises:
        ClientGone: the client disconnected.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, disconnected), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        task.cancel()


def _openai_error(body: bytes, status: int) -> bytes:
    """Convert a vLLM error to OpenAI's format. The field `code` of a vLLM error is the status. Some errors come from
    FastAPI and have another format.
    """
    try:
        error = msgspec.json.decode(body, type=ErrorResponse).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return RequestError(body[:1000].decode(errors="replace"), status=status).body()
    if isinstance(error.code, str):
        return body
    code = CONTEXT_LENGTH if status == 400 and "context length" in error.message else None
    return RequestError(error.message, status=status, param=error.param, code=code).body()


def _headers(reply: aiohttp.ClientResponse, replica: Replica, mark: int) -> Headers:
    """Returns the response headers. They contain the versions that sampled the response. If the replica does not report
    versions, they are all versions since the start of the request (`mark`). For a stream only the versions at the start
    are known. A response with status 503 also has the header retry-after.
    """
    content: Headers = ((b"content-type", reply.headers["content-type"].encode()),) if _streams(reply) else ()
    if reply.status == 503:
        content = ((b"retry-after", reply.headers.get("retry-after", str(BUSY_RETRY_S)).encode()),)
    stamp = reply.headers.get(VERSIONS_HEADER) or _SEPARATOR.join(replica.history[mark:])
    return (*content, (VERSIONS_HEADER.encode(), stamp.encode()))


def _streams(reply: aiohttp.ClientResponse) -> bool:
    return reply.content_type == "text/event-stream"
