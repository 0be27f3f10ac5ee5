"""Operations that use all workers of a server: batches, opening and listing sessions, capacity, metrics, frames."""

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
from arlarena.env_server.cluster.peers import ClusterMembers, Peers, slices
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

# A group of members (workers or pods) and the number of a member in the group. None is this process.
Place = tuple[ClusterMembers, int] | None


class RawBatch(msgspec.Struct):
    """A peer's reply to a batch. The results stay raw JSON and are passed on unchanged."""

    results: list[msgspec.Raw]


async def batch(
    service: EnvironmentService, members: Sequence[ClusterMembers], request: BatchRequest, caller: Caller
) -> list[Any]:
    """Run each item on the worker or pod that holds its session. Returns the results in the order of the items.

    Raises:
        ApiError: 422 for too many items.
    """
    batches.check_size(service, request)
    parts: dict[Place, list[int]] = defaultdict(list)
    for position, item in enumerate(request.items):
        parts[_place(members, item.session_id)].append(position)

    async def part(place: Place, positions: list[int]) -> list[Any]:
        items = [request.items[position] for position in positions]
        some = BatchRequest(items, request.deadline_s)
        if place is None:
            return list(await batches.carry_out(service, some, caller))
        return await _remote_batch(*place, some, caller)

    found = await asyncio.gather(*(part(place, positions) for place, positions in parts.items()))
    results: list[Any] = [None] * len(request.items)
    for positions, answers in zip(parts.values(), found, strict=True):
        for position, answer in zip(positions, answers, strict=True):
            results[position] = answer
    return results


def _place(members: Sequence[ClusterMembers], session_id: str) -> Place:
    """Returns the member that holds a session, or None for this process."""
    for some in members:
        if (holder := some.holder(session_id)) is not None:
            return some, holder
    return None


async def _remote_batch(members: ClusterMembers, number: int, request: BatchRequest, caller: Caller) -> list[Any]:
    body, headers = msgspec.json.encode(request), members.on_behalf(caller)
    try:
        reply = await members.ask(number, "POST", "/v1/batch", RawBatch, body, headers)
    except ApiError as error:
        return [_failed(item, error) for item in request.items]
    return list(reply.results)


def _failed(item: BatchItem, error: ApiError) -> BatchResult:
    return BatchResult(item.session_id, False, item.request_id, error=error.item())


async def open_sessions(
    service: EnvironmentService, peers: Peers, wish: CreateSessions, caller: Caller
) -> list[OpenedSession]:
    """Open `wish.count` sessions. If one of them fails, no session stays open. A single session is opened on this
    worker while it has room. Several sessions are spread evenly over all workers, so that a batch of their steps runs
    on all workers.

    Raises:
        ApiError: see `EnvironmentService.open`.
    """
    if wish.count == 1 and service.store.free():
        return await service.open(wish, caller)
    whole = service.settings.capacity * peers.count
    if wish.count > whole:
        raise errors.invalid(f"{wish.count} sessions are more than this server ever has ({whole})")
    room = [service.store.free(), *await peers.room()]
    if wish.count > sum(room):
        raise errors.at_capacity(wish.count, sum(room), whole, service.settings.retry_after_s)
    return await _open_parts(service, peers, wish, caller, shared_out(wish.count, room))


def shared_out(count: int, room: list[int]) -> list[int]:
    """Split `count` into parts that are as equal as possible. Part i is at most `room[i]`. `count` must not exceed the
    sum of `room`.

    >>> shared_out(8, [1, 9, 9])
    [1, 4, 3]
    """
    sizes = [0] * len(room)
    while missing := count - sum(sizes):
        able = [place for place, free in enumerate(room) if free > sizes[place]]
        for number, place in enumerate(able):
            share = missing // len(able) + (number < missing % len(able))
            sizes[place] += min(share, room[place] - sizes[place])
    return sizes


async def _open_parts(
    service: EnvironmentService, peers: Peers, wish: CreateSessions, caller: Caller, sizes: list[int]
) -> list[OpenedSession]:
    wishes = [
        msgspec.structs.replace(wish, count=size, reset=resets)
        for size, resets in zip(sizes, slices(wish.reset, sizes), strict=True)
    ]
    work = [
        _open_at(service, peers, None if number == 0 else peers.others[number - 1], part, caller)
        for number, part in enumerate(wishes)
        if part.count
    ]
    found = await asyncio.gather(*work, return_exceptions=True)
    opened = [one for part in found if not isinstance(part, BaseException) for one in part]
    failed = [part for part in found if isinstance(part, BaseException)]
    if failed:
        await asyncio.gather(*(_close_at(service, peers, one.session_id, caller) for one in opened))
        raise failed[0]
    return opened


async def _open_at(
    service: EnvironmentService, peers: Peers, worker: int | None, wish: CreateSessions, caller: Caller
) -> list[OpenedSession]:
    if worker is None:
        return await service.open(wish, caller)
    body, headers = msgspec.json.encode(wish), peers.on_behalf(caller)
    return (await peers.ask(worker, "POST", "/v1/sessions", SessionList, body, headers)).sessions


async def _close_at(service: EnvironmentService, peers: Peers, session_id: str, caller: Caller) -> None:
    worker = peers.holder(session_id)
    if worker is None:
        service.end(session_id, caller.tenant)
    else:
        await peers.send(worker, "DELETE", f"/v1/sessions/{session_id}", headers=peers.on_behalf(caller))


async def sessions(service: EnvironmentService, peers: Peers, caller: Caller) -> list[OpenedSession]:
    """Returns the caller's sessions on all reachable workers."""
    own = [service.store.describe(session) for session in service.store.of(caller.tenant)]
    found = await peers.ask_all("/v1/sessions", SessionList, caller)
    return own + [one for part in found for one in part.sessions]


async def capacity(service: EnvironmentService, peers: Peers) -> Capacity:
    """Returns the sum of the capacities of all reachable workers. `draining` is True if any worker is draining."""
    found = [service.capacity(), *await peers.ask_all("/v1/capacity", Capacity)]
    return Capacity(
        sum(one.max_sessions for one in found),
        sum(one.active_sessions for one in found),
        sum(one.available for one in found),
        any(one.draining for one in found),
    )


async def frame(peers: Peers, path: str, missing: ApiError, caller: Caller) -> Response:
    """Returns a frame (an image) that another worker has shown to the caller. `path`: the path of the frame's URL.

    Raises:
        ApiError: `missing`, if no other worker has the frame.
    """
    for worker in peers.others:
        reply = await peers.send(worker, "GET", path, headers=peers.on_behalf(caller))
        if reply.status_code == 200:
            return reply
    raise missing


async def metrics(service: EnvironmentService, peers: Peers) -> bytes:
    """Returns the metrics of all workers as Prometheus text. Each sample gets the label `worker`.

    Raises:
        ApiError: 503, a worker does not answer.
    """
    texts = {str(peers.index): generate_latest(service.metrics.registry).decode()}
    for worker in peers.others:
        reply = await peers.send(worker, "GET", "/metrics")
        texts[str(worker)] = bytes(reply.body).decode()
    return generate_latest(_Labelled(texts))


class _Labelled(CollectorRegistry):
    """A registry of the metrics in several Prometheus texts. `texts`: the text of each worker, by worker number."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__()
        self._texts = texts

    def collect(self) -> Any:
        """Merge the metric families of all workers. Each family appears once."""
        families: dict[str, Metric] = {}
        for worker, text in self._texts.items():
            for family in text_string_to_metric_families(text):
                kept = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    kept.add_sample(sample.name, {**sample.labels, "worker": worker}, sample.value)
        return iter(families.values())
