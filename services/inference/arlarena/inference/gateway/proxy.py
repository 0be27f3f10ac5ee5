"""Forwards requests to replicas. If a replica fails, the proxy sends the request to another replica. This is safe,
because sampling changes no state.
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

from arlarena.inference.api.asgi import AnyResponse, ApiRequest, ApiResponse, Headers, Relay
from arlarena.inference.api.errors import BUSY_RETRY_S, CONTEXT_LENGTH, LOADING_RETRY_S, ClientGone, RequestError
from arlarena.inference.api.request_limits import RequestLimits
from arlarena.inference.gateway.fleet import Fleet
from arlarena.inference.gateway.metrics import GatewayMetrics
from arlarena.inference.gateway.replica import Replica
from arlarena.proto.policy import SESSION_HEADER, TIMEOUT_HEADER, VERSIONS_HEADER, ErrorResponse
from arlarena.proto.telemetry import Logger

MAX_ATTEMPTS = 3  # one bad request can crash at most this many engines
SAMPLING_PATHS = frozenset(("/inference/v1/generate", "/v1/completions", "/v1/chat/completions"))
_MAX_RESPONSE = 256 << 20  # bytes; a million log-probs take half of this size as JSON
_SEPARATOR = ", "  # separates the versions in the header VERSIONS_HEADER
_OUT_OF_TIME = f"the request ran out of time (header {TIMEOUT_HEADER}, server setting request_timeout_s)"


class _ReplicaFailed(Exception):
    """A replica gave no valid response. The request can be sent to another replica."""


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """An unfinished request. `deadline`: in seconds of `time.monotonic`. `disconnected`: a future that is done when the
    client has disconnected.
    """

    call: ApiRequest
    deadline: float
    disconnected: asyncio.Future[Any]

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def check_deadline(self) -> None:
        """Raises RequestError with status 504 if `deadline` has passed."""
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
        """`limit_s`: maximum duration of a request in seconds. `wait_s`: maximum time in seconds that a request waits
        for an available replica. `limits`: the limits that the proxy checks, because the replicas (vLLM) do not check
        them; None if the replicas check the limits themselves.
        """
        self._fleet, self._limit_s, self._wait_s = fleet, limit_s, wait_s
        self._metrics, self._log, self._limits = metrics, log, limits

    async def forward(self, call: ApiRequest) -> AnyResponse:
        """Forward a request to a replica and return the replica's response. Makes at most `MAX_ATTEMPTS` attempts.

        Raises:
            ClientGone: the client disconnected.
            RequestError: status 400 or 413 if the request is invalid or exceeds `limits`; status 502 if all attempts
                failed; status 503 if no replica is available; status 504 if the deadline has passed.
        """
        if self._limits is not None and call.body:
            self._limits.check_body(call.body)
        deadline = time.monotonic() + min(call.timeout_s or self._limit_s, self._limit_s)
        pending = PendingRequest(call, deadline, asyncio.ensure_future(call.receive()))
        session, full_replicas = call.header(SESSION_HEADER.encode()), set[Replica]()
        response: AnyResponse | None = None
        why = ""
        try:
            for _ in range(MAX_ATTEMPTS):
                pending.check_deadline()
                wait_s = 0.0 if response is not None else min(self._wait_s, pending.left_s)
                try:
                    replica = await self._fleet.pick(session, full_replicas, wait_s)
                except RequestError as error:
                    if response is not None:
                        return response  # all available replicas are full; the last response has the status 503
                    pending.check_deadline()
                    if all(replica.state == "down" for replica in self._fleet.replicas):  # the engines are starting
                        error.retry_after_s = LOADING_RETRY_S
                    raise
                try:
                    response = await self._ask(replica, pending)
                except _ReplicaFailed as error:
                    why = str(error)
                    self._metrics.retries.inc()
                    self._log.warning("replica_failed", replica=replica.name, path=call.path, reason=why)
                    continue
                if not (isinstance(response, ApiResponse) and response.status == 503):
                    return response
                full_replicas.add(replica)
            if response is not None:
                return response
            raise RequestError(f"all {MAX_ATTEMPTS} attempts failed; the last error: {why}", status=502)
        finally:
            if not isinstance(response, Relay):
                pending.disconnected.cancel()

    async def _ask(self, replica: Replica, pending: PendingRequest) -> AnyResponse:
        """Send the request to one replica and return the replica's response.

        Raises:
            _ReplicaFailed: the replica did not answer, its response is not valid, or its new weights failed the probe.
            ClientGone: the client disconnected.
            RequestError: status 504 if the deadline has passed.
        """
        sampling = pending.call.path in SAMPLING_PATHS
        try:
            await _unless_disconnected(
                asyncio.wait_for(replica.begin_request(sampling), pending.left_s), pending.disconnected
            )
        except TimeoutError:
            raise RequestError(_OUT_OF_TIME, status=504) from None
        first_version = replica.first_expected
        streams = False  # True: the response is a stream, and `_relay` calls `end_request`
        try:
            if not replica.accepts_requests:
                raise _ReplicaFailed(f"{replica.name} is {replica.state}")
            reply = await _unless_disconnected(self._send(replica, pending), pending.disconnected)
            self._check_versions(replica, first_version, reply)
            if _is_stream(reply):
                streams = True
                relayed = self._relay(replica, pending, reply, sampling)
                return Relay(reply.status, _headers(reply, replica, first_version), relayed)
            async with reply:
                body = await _unless_disconnected(_read(reply), pending.disconnected)
            # vLLM samples with new weights before the gateway has probed them. If the probe fails, the response is
            # discarded.
            if not replica.driver.probes_before_serving and not await asyncio.wait_for(
                replica.wait_for_push(), pending.left_s
            ):
                raise _ReplicaFailed(f"{replica.name} failed the probe of its new weights")
            if reply.status >= 400:
                body = _openai_error(body, reply.status)
            return ApiResponse(body, reply.status, reply.content_type.encode(), _headers(reply, replica, first_version))
        except TimeoutError:
            raise RequestError(_OUT_OF_TIME, status=504) from None
        except (aiohttp.ClientError, OSError) as error:
            replica.mark_down()
            raise _ReplicaFailed(f"{replica.name}: {error or type(error).__name__}") from error
        finally:
            if not streams:
                replica.end_request(sampling)

    async def _send(self, replica: Replica, pending: PendingRequest) -> aiohttp.ClientResponse:
        call, left_s = pending.call, max(0.001, pending.left_s)
        headers = {"content-type": "application/json", TIMEOUT_HEADER: f"{left_s:.3f}"}
        timeout = aiohttp.ClientTimeout(total=left_s)
        url = replica.url + quote(call.path)  # `call.path` is decoded and can contain any character of a model's name
        return await replica.session.request(
            call.method, url, data=call.body, headers=headers, timeout=timeout, allow_redirects=False
        )

    def _check_versions(self, replica: Replica, first_version: int, reply: aiohttp.ClientResponse) -> None:
        """Check that only expected versions of the weights have sampled the response. The expected versions are the
        items of `replica.history` from index `first_version` on (`Replica.first_expected` at the start of the request).
        For example, a replica has an unexpected version if another program has restarted the replica.

        Raises:
            _ReplicaFailed: a version is unexpected.
        """
        versions = reply.headers.get(VERSIONS_HEADER)
        if versions and not set(versions.split(_SEPARATOR)) <= set(replica.history[first_version:]):
            reply.close()
            replica.mark_down()
            raise _ReplicaFailed(
                f"{replica.name} sampled with the weight versions {versions}; expected: "
                f"{_SEPARATOR.join(replica.history[first_version:])}"
            )

    async def _relay(
        self, replica: Replica, pending: PendingRequest, reply: aiohttp.ClientResponse, sampling: bool
    ) -> AsyncIterator[bytes]:
        """Yields the chunks of a stream as soon as they arrive. Calls `Replica.end_request` after the last chunk.
        `sampling`: whether the request samples tokens.

        Raises:
            ClientGone: the client disconnected.
            RequestError: status 502 if the replica failed; status 504 if the deadline has passed.
        """
        try:
            async with reply:
                while chunk := await _unless_disconnected(reply.content.readany(), pending.disconnected):
                    yield chunk
                    pending.check_deadline()  # aiohttp checks its time limit only when it waits for data
        except TimeoutError:
            raise RequestError(_OUT_OF_TIME, status=504) from None
        except (aiohttp.ClientError, OSError) as error:
            replica.mark_down()
            raise RequestError(f"the engine failed while it answered: {error!r}", status=502) from error
        finally:
            replica.end_request(sampling)
            pending.disconnected.cancel()


async def _read(reply: aiohttp.ClientResponse) -> bytes:
    """Returns the complete body of a response.

    Raises:
        aiohttp.ClientError: the body is too large, or the connection broke.
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
    """Convert the body of an error response to OpenAI's format. There are three cases. If the body has OpenAI's format,
    it is not changed. If the body is an error of vLLM, the field `code` contains the HTTP status, and this function
    replaces it by a text. Any other body, such as an error of FastAPI, becomes the error message.
    """
    try:
        error = msgspec.json.decode(body, type=ErrorResponse).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return RequestError(body[:1000].decode(errors="replace"), status=status).body()
    if isinstance(error.code, str):
        return body
    code = CONTEXT_LENGTH if status == 400 and "context length" in error.message else None
    return RequestError(error.message, status=status, param=error.param, code=code).body()


def _headers(reply: aiohttp.ClientResponse, replica: Replica, first_version: int) -> Headers:
    """Returns the headers of the response to the client. The header `x-weight-versions` lists the weight versions that
    sampled the response. If the replica does not report versions, the header lists all versions that were in service
    since the start of the request (`replica.history` from index `first_version` on). The headers of a stream are sent
    first, so they cannot list later versions. A response with status 503 also has the header `retry-after`.
    """
    content: Headers = ((b"content-type", reply.headers["content-type"].encode()),) if _is_stream(reply) else ()
    if reply.status == 503:
        content = ((b"retry-after", reply.headers.get("retry-after", str(BUSY_RETRY_S)).encode()),)
    versions = reply.headers.get(VERSIONS_HEADER) or _SEPARATOR.join(replica.history[first_version:])
    return (*content, (VERSIONS_HEADER.encode(), versions.encode()))


def _is_stream(reply: aiohttp.ClientResponse) -> bool:
    return reply.content_type == "text/event-stream"
