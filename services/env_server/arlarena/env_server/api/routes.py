"""The table of HTTP routes. Each entry has the type of the request body, the type of the reply, and the handler.

The routes are Starlette endpoints that use msgspec, because FastAPI's validation would take longer than a step.
The module `openapi` generates the OpenAPI document from the same table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from arlarena.env_server import errors
from arlarena.env_server.api import batches, mcp_http
from arlarena.env_server.api.json_codec import check_values, parse, read_body, reply
from arlarena.env_server.api.json_schema import schema_of
from arlarena.env_server.cluster import shared
from arlarena.env_server.cluster.peers import Peers, Pods, is_hop, is_pod_hop
from arlarena.env_server.sessions import tasks
from arlarena.env_server.sessions.service import EnvironmentService
from arlarena.env_server.sessions.store import Caller, ServerSession
from arlarena.environment.frames import PNG
from arlarena.proto import env_api as env
from arlarena.proto.env_api_tasks import (
    SplitRef,
    SplitRequest,
    TaskCount,
    TaskList,
    TaskRange,
    TaskRangeRequest,
    TaskReply,
    TaskRequest,
)


@dataclass(frozen=True, slots=True)
class RouteCall:
    """One request. `body`: the decoded body, None if the route has no body. `path`, `query`: the parameters in the path
    and the query. `caller`: the client. `peers`: the other workers; None if there are none, or if a worker forwarded
    the request. `pods`: the other pods; None if there are none, or if a worker or a pod forwarded the request.
    """

    service: EnvironmentService
    body: Any
    path: dict[str, str]
    query: dict[str, str]
    headers: Mapping[str, str]
    caller: Caller
    peers: Peers | None = None
    pods: Pods | None = None

    def session(self, session_id: str) -> ServerSession:
        """Returns a session of the caller.

        Raises:
            ApiError: 404 if the caller has no such session.
        """
        return self.service.store.get(session_id, self.caller.tenant)


Handler = Callable[[RouteCall], Awaitable[Any]]
RAW = bytes
MCP_PATH = "/mcp"


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `body_type`: the type of the request body; if it is RAW, the handler gets the bytes. `reply_type`: the
    type of the reply; if it is None, the handler returns a Response. `errors`: the possible error statuses. `query`:
    the names of the query parameters.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    body_type: type[Any] | None = None
    reply_type: Any = None
    errors: tuple[int, ...] = ()
    query: tuple[str, ...] = ()


async def health(call: RouteCall) -> Response:
    """Returns the server's health, with status 503 if the server is unhealthy."""
    report = call.service.health.report()
    return reply(report, 503 if report.status == "unhealthy" else 200)


async def ready(call: RouteCall) -> Response:
    """Returns 200 if the server opens new sessions and has a thread that is not lost (see `WorkPool`), else 503."""
    service = call.service
    if service.store.draining:
        return reply(env.Health("draining"), 503)
    if not service.pool.free:
        return reply(env.Health("unhealthy", service.health.threads()), 503)
    return reply(env.Health("ready"))


async def metadata(call: RouteCall) -> env.OpenEnvMetadata:
    """Returns the environment's name and description in OpenEnv's format."""
    info = call.service.info
    return env.OpenEnvMetadata(info.name, info.description, info.version)


async def schema(call: RouteCall) -> env.Schemas:
    """Returns the JSON Schemas of action, observation and state."""
    # The Python package `verifiers` treats every action schema with the title "Action" as an MCP server's schema. This
    # schema therefore gets another title.
    action = schema_of(env.Action) | {"title": "TextAction"}
    return env.Schemas(action, schema_of(env.Observation), schema_of(env.State))


async def state(call: RouteCall) -> env.State:
    """Returns the state of a session. Without `session_id`, returns an empty state."""
    session_id = call.query.get("session_id")
    return call.service.state(call.session(session_id)) if session_id else env.State()


async def reset(call: RouteCall) -> env.StepResult:
    """Start an episode in a session. Without `session_id`, the new episode is dropped after its first observation."""
    body = cast(env.ResetRequest, call.body)
    if body.session_id is not None:
        return await call.service.reset(call.session(body.session_id), body)
    return await call.service.first_observation(body, call.caller)


async def step(call: RouteCall) -> env.StepResult:
    """Take a step in a session. Without `session_id`, start an episode of the default task and take its first step."""
    body = cast(env.StepRequest, call.body)
    service = call.service
    if body.session_id is not None:
        return await service.step(call.session(body.session_id), body.action.text, body.step_index)
    if body.step_index is not None:
        raise errors.invalid("step_index needs a session_id")
    return await service.first_step(body.action.text, call.caller)


async def rpc(call: RouteCall) -> Response:
    """Handle one MCP message (JSON-RPC over HTTP)."""
    return await mcp_http.post(call.service, call.body, call.headers, call.caller)


async def close_rpc(call: RouteCall) -> Response:
    """End the session of an MCP client."""
    return mcp_http.close(call.service, call.headers, call.caller)


async def list_environments(call: RouteCall) -> list[str]:
    """Returns a list with the name of the served environment."""
    return [call.service.info.name]


def _check_environment(call: RouteCall) -> None:
    """Raises ApiError with status 404 if the environment in the path is not the environment of this server."""
    name, known = call.path["env"], call.service.info.name
    if name.lower() != known.lower():
        raise errors.ApiError(404, "unknown_environment", f"no environment {name!r}; this server serves {known!r}")


async def list_splits(call: RouteCall) -> list[SplitRef]:
    """Returns the environment's splits."""
    _check_environment(call)
    return [SplitRef(split.name, split.type) for split in call.service.info.splits]


async def list_tasks(call: RouteCall) -> TaskList:
    """Returns all tasks of a split. The split must have at most `max_listed` tasks."""
    _check_environment(call)
    service = call.service
    split = tasks.split_named(service.factory, call.body.split)
    listed = tasks.task_range(service.factory, split, None, None, service.settings.max_listed)
    return TaskList(listed, service.info.name)


async def count_tasks(call: RouteCall) -> TaskCount:
    """Returns the number of tasks in a split."""
    _check_environment(call)
    return TaskCount(tasks.count(tasks.split_named(call.service.factory, call.body.split)))


async def show_task(call: RouteCall) -> TaskReply:
    """Returns one task."""
    _check_environment(call)
    factory, body = call.service.factory, call.body
    return TaskReply(tasks.task_at(factory, tasks.split_named(factory, body.split), body.index))


async def list_task_range(call: RouteCall) -> TaskRange:
    """Returns a range of a split's tasks."""
    _check_environment(call)
    factory, body = call.service.factory, call.body
    split = tasks.split_named(factory, body.split)
    return TaskRange(tasks.task_range(factory, split, body.start, body.stop, call.service.settings.max_listed))


async def open_sessions(call: RouteCall) -> env.SessionList:
    """Open sessions. If an error occurs, no session is opened."""
    if call.peers is not None:
        return env.SessionList(await shared.open_sessions(call.service, call.peers, call.body, call.caller))
    return env.SessionList(await call.service.open(call.body, call.caller))


async def list_sessions(call: RouteCall) -> env.SessionList:
    """Returns the caller's open sessions."""
    if call.peers is not None:
        return env.SessionList(await shared.sessions(call.service, call.peers, call.caller))
    store = call.service.store
    return env.SessionList([store.describe(session) for session in store.of(call.caller.tenant)])


async def show_session(call: RouteCall) -> env.OpenedSession:
    """Returns the description of one session. This request does not restart the session's idle time."""
    store = call.service.store
    session_id = call.path["session_id"]
    found = next((session for session in store.of(call.caller.tenant) if session.id == session_id), None)
    if found is None:
        raise errors.unknown_session(session_id)
    return store.describe(found)


async def close_session(call: RouteCall) -> Response:
    """End a session."""
    call.service.end(call.path["session_id"], call.caller.tenant)
    return Response(status_code=204)


async def fork(call: RouteCall) -> env.SessionList:
    """Open sessions with copies of this session's episode."""
    return env.SessionList(await call.service.fork(call.session(call.path["session_id"]), call.body))


async def snapshot(call: RouteCall) -> env.Snapshot:
    """Store the state of a session."""
    return await call.service.snapshot(call.session(call.path["session_id"]))


async def restore(call: RouteCall) -> env.OpenedSession:
    """Restore a stored state in an existing session or a new session."""
    return await call.service.restore(call.path["snapshot_id"], call.body, call.caller)


async def forget_snapshot(call: RouteCall) -> Response:
    """Delete a snapshot."""
    call.service.snapshots.forget(call.path["snapshot_id"], call.caller.tenant)
    return Response(status_code=204)


async def show_frame(call: RouteCall) -> Response:
    """Returns a frame (an image) by the hash of its file. Clients may cache the frame forever."""
    try:
        png = call.service.frames.get(call.path["digest"], call.caller.tenant)
    except errors.ApiError as missing:
        if call.peers is None:
            raise
        return await shared.frame(call.peers, f"/v1/frames/{call.path['digest']}.png", missing, call.caller)
    readers = "public" if call.caller.tenant is None else "private"
    headers = {"Cache-Control": f"{readers}, max-age=31536000, immutable", "ETag": f'"{call.path["digest"]}"'}
    return Response(png, headers=headers, media_type=PNG)


async def heartbeat(call: RouteCall) -> env.SessionLease:
    """Restart the idle time of a session. Returns the time at which the session expires."""
    store = call.service.store
    session = call.session(call.path["session_id"])
    return env.SessionLease(session.id, store.lease_expires_at(session))


async def expert(call: RouteCall) -> env.ExpertReply:
    """Returns the next reply of the expert, and all replies of the expert from the current state to the end of the
    episode. The expert is the environment's own program that solves tasks.
    """
    return await call.service.expert(call.session(call.path["session_id"]))


async def batch(call: RouteCall) -> env.BatchReply:
    """Run many operations in one request. Each operation has its own result or error."""
    members = [group for group in (call.pods, call.peers) if group is not None]
    if members:
        return env.BatchReply(await shared.batch(call.service, members, call.body, call.caller))
    return env.BatchReply(await batches.run_batch(call.service, call.body, call.caller))


async def info(call: RouteCall) -> env.Info:
    """Returns the description of the environment, such as its versions, template, rewards and splits."""
    return call.service.info


async def capacity(call: RouteCall) -> env.Capacity:
    """Returns how many sessions are open and how many more can be opened."""
    if call.peers is not None:
        return await shared.capacity(call.service, call.peers)
    return call.service.capacity()


async def metrics(call: RouteCall) -> Response:
    """Returns the metrics as Prometheus text."""
    service = call.service
    service.metrics.sessions.set(len(service.store))
    service.metrics.lost_threads.set(service.pool.lost_count)
    if call.peers is not None:
        return Response(await shared.metrics(service, call.peers), media_type=CONTENT_TYPE_LATEST)
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


ROUTES = (
    Route("GET", "/health", health, "Health of the server", reply_type=env.Health, errors=(503,)),
    Route("GET", "/ready", ready, "Whether the server opens new sessions", errors=(503,)),
    Route("GET", "/metadata", metadata, "Name and description, in OpenEnv's format", reply_type=env.OpenEnvMetadata),
    Route("GET", "/schema", schema, "JSON Schemas of action, observation and state", reply_type=env.Schemas),
    Route("GET", "/state", state, "State of a session", reply_type=env.State, errors=(404,), query=("session_id",)),
    Route("POST", "/reset", reset, "Begin an episode", env.ResetRequest, env.StepResult, (404, 422, 504)),
    Route("POST", "/step", step, "Take a step", env.StepRequest, env.StepResult, (404, 409, 422, 504)),
    Route("POST", MCP_PATH, rpc, "MCP, as JSON-RPC 2.0", body_type=RAW, errors=(400, 404)),
    Route("DELETE", MCP_PATH, close_rpc, "End the session of an MCP client", errors=(404,)),
    Route("GET", "/list_environments", list_environments, "Name of the served environment", reply_type=list[str]),
    Route("GET", "/{env}/splits", list_splits, "Splits of the environment", reply_type=list[SplitRef], errors=(404,)),
    Route("POST", "/{env}/tasks", list_tasks, "Tasks of a split", SplitRequest, TaskList, (404, 422)),
    Route("POST", "/{env}/num_tasks", count_tasks, "Number of tasks", SplitRequest, TaskCount, (404, 422)),
    Route("POST", "/{env}/task", show_task, "One task", TaskRequest, TaskReply, (400, 404, 422)),
    Route(
        "POST", "/{env}/task_range", list_task_range, "Range of tasks", TaskRangeRequest, TaskRange,
        (400, 404, 422),
    ),
    Route(
        "POST", "/v1/sessions", open_sessions, "Open sessions, all or none", env.CreateSessions, env.SessionList,
        (422, 429, 503, 504),
    ),
    Route("GET", "/v1/sessions", list_sessions, "Open sessions of the caller", reply_type=env.SessionList),
    Route("GET", "/v1/sessions/{session_id}", show_session, "One session", reply_type=env.OpenedSession, errors=(404,)),
    Route("DELETE", "/v1/sessions/{session_id}", close_session, "End a session", errors=(404,)),
    Route(
        "POST", "/v1/sessions/{session_id}/heartbeat", heartbeat, "Restart the idle timer of a session",
        reply_type=env.SessionLease, errors=(404,),
    ),
    Route(
        "POST", "/v1/sessions/{session_id}/fork", fork, "Open sessions with copies of this session's episode",
        env.ForkRequest, env.SessionList, (404, 409, 422, 429, 503),
    ),
    Route(
        "POST", "/v1/sessions/{session_id}/snapshot", snapshot, "Store a session's state",
        reply_type=env.Snapshot, errors=(404, 409, 503),
    ),
    Route(
        "POST", "/v1/snapshots/{snapshot_id}/restore", restore, "Restore a stored state",
        env.RestoreRequest, env.OpenedSession, (404, 422, 429, 503),
    ),
    Route("DELETE", "/v1/snapshots/{snapshot_id}", forget_snapshot, "Delete a snapshot", errors=(404,)),
    Route(
        "GET", "/v1/sessions/{session_id}/expert", expert, "The expert's replies until the episode ends",
        reply_type=env.ExpertReply, errors=(403, 404, 409, 504),
    ),
    Route("POST", "/v1/batch", batch, "Many operations in one request", env.BatchRequest, env.BatchReply, (422,)),
    Route("GET", "/v1/frames/{digest}.png", show_frame, "A frame (image), by its SHA-256", errors=(404,)),
    Route("GET", "/v1/info", info, "Description of the environment", reply_type=env.Info),
    Route("GET", "/v1/capacity", capacity, "Open and free sessions", reply_type=env.Capacity),
    Route("GET", "/metrics", metrics, "Metrics as Prometheus text"),
)  # fmt: skip


def session_or_snapshot_id(
    route: Route, body: Any, path: dict[str, str], query: dict[str, str], headers: Mapping[str, str]
) -> str | None:
    """Returns the id of the request's session or snapshot, or None if the request has no such id."""
    if route.path == MCP_PATH:
        return mcp_http.session_id_of(body or b"", headers)
    found = path.get("session_id") or path.get("snapshot_id") or query.get("session_id")
    return found or getattr(body, "session_id", None)


async def answer(route: Route, service: EnvironmentService, request: Request) -> Response:
    """Handle one request and return the response. If another worker or pod holds the session, the request is forwarded.

    Raises:
        ApiError: the request is invalid or not permitted, or the operation failed.
    """
    caller = service.access.caller(request)
    body: Any = None
    raw = b""
    if route.body_type is not None:
        raw = await read_body(request, service.settings.max_body_bytes)
        check_values(raw)
        body = raw if route.body_type is RAW else parse(raw, route.body_type)
    path = cast(dict[str, str], request.path_params)
    query = dict(request.query_params) if request.scope["query_string"] else {}
    peers = None if is_hop(request) else service.peers
    target_id = session_or_snapshot_id(route, body, path, query, request.headers)
    pods = None if is_hop(request) or is_pod_hop(request) else service.pods
    for members in (pods, peers):
        if members is not None and (holder := members.holder(target_id)) is not None:
            return await members.forward(holder, request, raw, caller)
    call = RouteCall(service, body, path, query, request.headers, caller, peers, pods)
    if call.query and (unknown := set(call.query) - set(route.query)):
        raise errors.invalid(f"unknown query parameter {min(unknown)!r}; known: {', '.join(route.query) or 'none'}")
    value = await route.handler(call)
    return value if isinstance(value, Response) else reply(value)
