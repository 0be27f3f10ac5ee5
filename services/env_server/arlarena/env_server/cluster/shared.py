"""Operations that need several workers or pods: batches, opening and listing sessions, capacity, metrics, frames."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import Response

from arlarena.env_server import errors
from arlarena.env_server.api import batches
from arlarena.env_server.cluster.peers import ClusterMembers, Peers, split_by_size
from arlarena.env_server.errors import ApiError
from arlarena.env_server.sessions.service import EnvironmentService
from arlarena.env_server.sessions.store import Caller
from arlarena.proto.env_api import (
    BatchItem,
    BatchRequest,
    BatchResult,
    Capacity,
    CreateSessions,
    OpenedSession,
    SessionList,
)

# A member is its group (the workers or the pods) and its number in the group. None means this process.
Member = tuple[ClusterMembers, int] | None


class RawBatch(msgspec.Struct):
    """Another member's reply to a batch. The results stay raw JSON, because they are passed on unchanged."""

    results: list[msgspec.Raw]


async def batch(
    service: EnvironmentService, members: Sequence[ClusterMembers], request: BatchRequest, caller: Caller
) -> list[Any]:
    """Run each item on the worker or pod that holds the item's session. Returns the results in the order of the items.

    Raises:
        ApiError: 422 if the batch has too many items.
    """
    batches.check_size(service, request)
    positions_of: dict[Member, list[int]] = defaultdict(list)
    for position, item in enumerate(request.items):
        positions_of[_member_of(members, item.session_id)].append(position)

    async def run_part(member: Member, positions: list[int]) -> list[Any]:
        items = [request.items[position] for position in positions]
        part = BatchRequest(items, request.deadline_s)
        if member is None:
            return list(await batches.run_batch(service, part, caller))
        return await _remote_batch(*member, part, caller)

    results_of_parts = await asyncio.gather(*(run_part(*part) for part in positions_of.items()))
    results: list[Any] = [None] * len(request.items)
    for positions, part_results in zip(positions_of.values(), results_of_parts, strict=True):
        for position, result in zip(positions, part_results, strict=True):
            results[position] = result
    return results


def _member_of(groups: Sequence[ClusterMembers], session_id: str) -> Member:
    """Returns the member that holds a session, or None for this process."""
    for members in groups:
        if (holder := members.holder(session_id)) is not None:
            return members, holder
    return None


async def _remote_batch(members: ClusterMembers, number: int, request: BatchRequest, caller: Caller) -> list[Any]:
    body, headers = msgspec.json.encode(request), members.caller_headers(caller)
    try:
        reply = await members.ask(number, "POST", "/v1/batch", RawBatch, body, headers)
    except ApiError as error:
        return [_error_result(item, error) for item in request.items]
    return list(reply.results)


def _error_result(item: BatchItem, error: ApiError) -> BatchResult:
    return BatchResult(item.session_id, False, item.request_id, error=error.to_item())


async def open_sessions(
    service: EnvironmentService, peers: Peers, request: CreateSessions, caller: Caller
) -> list[OpenedSession]:
    """Open `request.count` sessions. If a session cannot be opened, all new sessions are closed.

    If `request.count` is 1 and this worker is not full, this worker opens the session. Otherwise, the sessions are
    spread evenly over all workers. A later batch of steps in these sessions then uses all workers.

    Raises:
        ApiError: see `EnvironmentService.open`.
    """
    if request.count == 1 and service.store.free():
        return await service.open(request, caller)
    total = service.settings.capacity * peers.count
    if request.count > total:
        raise errors.invalid(f"{request.count} sessions are more than this server's capacity of {total}")
    free = [service.store.free(), *await peers.free_capacity()]
    if request.count > sum(free):
        raise errors.at_capacity(request.count, sum(free), total, service.settings.retry_after_s)
    return await _open_parts(service, peers, request, caller, split_evenly(request.count, free))


def split_evenly(count: int, limits: list[int]) -> list[int]:
    """Split `count` into parts of nearly equal size. Part i is at most `limits[i]`. `count` must not exceed the sum of
    `limits`.

    >>> split_evenly(8, [1, 9, 9])
    [1, 4, 3]
    """
    sizes = [0] * len(limits)
    while missing := count - sum(sizes):
        below_limit = [part for part, limit in enumerate(limits) if limit > sizes[part]]
        for number, part in enumerate(below_limit):
            share = missing // len(below_limit) + (number < missing % len(below_limit))
            sizes[part] += min(share, limits[part] - sizes[part])
    return sizes


async def _open_parts(
    service: EnvironmentService, peers: Peers, request: CreateSessions, caller: Caller, sizes: list[int]
) -> list[OpenedSession]:
    """Open `sizes[0]` sessions on this worker and `sizes[1:]` sessions on the other workers."""
    requests = [
        msgspec.structs.replace(request, count=size, reset=resets)
        for size, resets in zip(sizes, split_by_size(request.reset, sizes), strict=True)
    ]
    work = [
        _open_at(service, peers, None if number == 0 else peers.others[number - 1], part, caller)
        for number, part in enumerate(requests)
        if part.count
    ]
    answers = await asyncio.gather(*work, return_exceptions=True)
    opened = [session for answer in answers if not isinstance(answer, BaseException) for session in answer]
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    if failed:
        await asyncio.gather(*(_close_at(service, peers, session.session_id, caller) for session in opened))
        raise failed[0]
    return opened


async def _open_at(
    service: EnvironmentService, peers: Peers, worker: int | None, request: CreateSessions, caller: Caller
) -> list[OpenedSession]:
    if worker is None:
        return await service.open(request, caller)
    body, headers = msgspec.json.encode(request), peers.caller_headers(caller)
    return (await peers.ask(worker, "POST", "/v1/sessions", SessionList, body, headers)).sessions


async def _close_at(service: EnvironmentService, peers: Peers, session_id: str, caller: Caller) -> None:
    worker = peers.holder(session_id)
    if worker is None:
        service.end(session_id, caller.tenant)
    else:
        await peers.send(worker, "DELETE", f"/v1/sessions/{session_id}", headers=peers.caller_headers(caller))


async def sessions(service: EnvironmentService, peers: Peers, caller: Caller) -> list[OpenedSession]:
    """Returns the caller's sessions on this worker and on all other workers that answer."""
    own = [service.store.describe(session) for session in service.store.of(caller.tenant)]
    answers = await peers.ask_all("/v1/sessions", SessionList, caller)
    return own + [session for answer in answers for session in answer.sessions]


async def capacity(service: EnvironmentService, peers: Peers) -> Capacity:
    """Returns the total capacity of this worker and all other workers that answer. `draining` is True if any of these
    workers is draining.
    """
    capacities = [service.capacity(), *await peers.ask_all("/v1/capacity", Capacity)]
    return Capacity(
        sum(each.max_sessions for each in capacities),
        sum(each.active_sessions for each in capacities),
        sum(each.available for each in capacities),
        any(each.draining for each in capacities),
    )


async def frame(peers: Peers, path: str, missing: ApiError, caller: Caller) -> Response:
    """Returns a frame (an image) that another worker has shown to the caller. `path`: the path in the frame's URL.

    Raises:
        ApiError: `missing` if no other worker has the frame; 503 if a worker does not answer.
    """
    for worker in peers.others:
        reply = await peers.send(worker, "GET", path, headers=peers.caller_headers(caller))
        if reply.status_code == 200:
            return reply
    raise missing


async def metrics(service: EnvironmentService, peers: Peers) -> bytes:
    """Returns the metrics of all workers as Prometheus text. Each sample gets the label `worker`.

    Raises:
        ApiError: 503 if a worker does not answer.
    """
    texts = {str(peers.index): generate_latest(service.metrics.registry).decode()}
    for worker in peers.others:
        reply = await peers.send(worker, "GET", "/metrics")
        texts[str(worker)] = bytes(reply.body).decode()
    return generate_latest(_Labelled(texts))


class _Labelled(CollectorRegistry):
    """A registry with the metrics of several workers. `texts`: the Prometheus text of each worker, by worker number."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__()
        self._texts = texts

    def collect(self) -> Any:
        """Returns the metric families of all workers. Each family appears once, with the samples of all workers."""
        families: dict[str, Metric] = {}
        for worker, text in self._texts.items():
            for family in text_string_to_metric_families(text):
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.add_sample(sample.name, {**sample.labels, "worker": worker}, sample.value)
        return iter(families.values())
