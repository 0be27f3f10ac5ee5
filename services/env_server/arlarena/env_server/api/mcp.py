"""MCP, the Model Context Protocol. Its messages are JSON-RPC 2.0 requests. The methods are `initialize`, `ping`,
`tools/list`, `tools/call`, and OpenEnv's two session methods. The module `mcp_http` is the HTTP transport.

    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"act","arguments":{"text":"up"},"session_id":"…"}}
    < {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":…}],"data":{"observation":…,"reward":…}}}

Every environment has two tools: `start_episode` and `act`. Each call of a tool needs a session. MCP clients use the
session that `initialize` opened, and send its id in a header. OpenEnv's clients send the id in `params.session_id`. A
call without a session is an error. (OpenEnv's server would use a new environment and lose its state after the reply.)
OpenEnv's client reads the field `data` of a result. Other clients read `content` and `structuredContent`.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

from arlarena.env_server.api.json_codec import parse
from arlarena.env_server.api.json_schema import schema_of
from arlarena.env_server.cluster import shared
from arlarena.env_server.errors import ApiError
from arlarena.env_server.sessions.service import EnvironmentService
from arlarena.env_server.sessions.store import UNKNOWN_CALLER, Caller, ServerSession
from arlarena.proto.env_api import Action, CreateSessions, ResetSpec, StepResult
from arlarena.proto.text.names import known_names

# JSON-RPC 2.0, section 5.1. -32000 is the first code that the server may define.
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
SERVER_ERROR = -32000

# Supported versions of MCP, newest first: https://modelcontextprotocol.io/specification
PROTOCOL_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
NOTIFICATIONS = "notifications/"  # a method with this prefix gets no reply
INSTRUCTIONS = (
    "Call start_episode to begin and read the task. Then call act, one action at a time, until the result says that "
    "the episode is over. Another start_episode begins another episode."
)
NO_SESSION = (
    "tools/call needs a session, which holds the episode: send 'initialize' and repeat the header Mcp-Session-Id of "
    "its reply, or call 'openenv/session/create' and pass its session_id in params"
)
EPISODE_OVER = "The episode is over. Its score is {score:g} of 1. Call start_episode to begin another."

Id = int | float | str | None


_ABSENT = msgspec.Raw(b"null")


class Params(msgspec.Struct):
    """The parameters of a request that this server reads. The values are raw JSON until their type is known."""

    name: msgspec.Raw = _ABSENT
    arguments: msgspec.Raw = _ABSENT
    session_id: msgspec.Raw = _ABSENT
    protocol_version: msgspec.Raw = msgspec.field(default=_ABSENT, name="protocolVersion")


class McpRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON-RPC request. `params` must be an object, not an array."""

    jsonrpc: Literal["2.0"]
    method: str
    params: Params = msgspec.field(default_factory=Params)
    id: Id = None


class RpcError(Exception):
    """An error that the client gets as a JSON-RPC error reply."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


@dataclass(frozen=True, slots=True)
class McpCall:
    """One request. `own`: the session of the WebSocket that sent the request, None over HTTP. `caller`: the client that
    sent the request. `header`: the session id in the request's header.
    """

    service: EnvironmentService
    params: Params
    own: ServerSession | None
    caller: Caller
    header: str | None = None

    def text(self, name: str) -> str:
        """Returns the parameter `name`, which must be a string that is not empty.

        Raises:
            RpcError: the parameter is missing, empty or no string.
        """
        value = _text(getattr(self.params, name))
        if not value:
            raise RpcError(INVALID_PARAMS, f"params.{_WIRE_NAMES[name]} must be a text")
        return value

    def session(self) -> ServerSession | None:
        """Returns the session of the request: the session of the WebSocket, or else the session that `session_id` or
        the header names. Returns None if the request names no session.

        Raises:
            RpcError: `session_id` is not a string.
            ApiError: the session does not exist.
        """
        if self.own is not None:
            return self.service.store.get(self.own.id, self.own.tenant)
        named = self.header if bytes(self.params.session_id) == b"null" else self.text("session_id")
        return None if named is None else self.service.store.get(named, self.caller.tenant)

    def needed_session(self) -> ServerSession:
        """Returns the session of the request, as `session` does.

        Raises:
            RpcError: the request names no session. The message explains how to open a session.
            ApiError: the session does not exist.
        """
        if (session := self.session()) is None:
            raise RpcError(INVALID_PARAMS, NO_SESSION)
        return session

    async def open_session(self) -> str:
        """Open a session and return its id. If this worker is full, another worker opens the session.

        Raises:
            ApiError: all workers are full.
        """
        if self.service.peers is not None:
            opened = await shared.open_sessions(self.service, self.service.peers, CreateSessions(), self.caller)
            return opened[0].session_id
        return self.service.store.open(1, caller=self.caller)[0].id


_WIRE_NAMES = dict(zip(Params.__struct_fields__, Params.__struct_encode_fields__, strict=True))


def _text(raw: msgspec.Raw) -> str | None:
    """Returns a JSON string as `str`. Returns None for a value of another type."""
    try:
        return parse(bytes(raw), str)
    except ApiError:
        return None


def _arguments(given: msgspec.Raw, kind: type[msgspec.Struct]) -> Any:
    raw = bytes(given)
    try:
        return parse(b"{}" if raw == b"null" else raw, kind)
    except ApiError as error:
        raise RpcError(INVALID_PARAMS, f"params.arguments: {error.message}") from error


async def _start_episode(call: McpCall, arguments: ResetSpec) -> StepResult:
    return await call.service.reset(call.needed_session(), arguments)


async def _act(call: McpCall, arguments: Action) -> StepResult:
    return await call.service.step(call.needed_session(), arguments.text)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool. `takes`: the type of its arguments. `work`: the function that runs the tool."""

    description: str
    takes: type[msgspec.Struct]
    work: Callable[[McpCall, Any], Awaitable[StepResult]]


TOOLS = {
    "start_episode": Tool("Begin an episode and read its first observation.", ResetSpec, _start_episode),
    "act": Tool("Say something to the environment, a whole reply or a bare action: one step.", Action, _act),
}


async def _initialize(call: McpCall) -> Any:
    """Returns the reply to the handshake. This function opens no session: `mcp_http` does that."""
    asked, info = call.text("protocol_version"), call.service.info
    return {
        "protocolVersion": asked if asked in PROTOCOL_VERSIONS else PROTOCOL_VERSIONS[0],
        "capabilities": {"tools": {}},
        "serverInfo": {"name": f"arlarena-{info.name}", "title": info.description, "version": info.version},
        "instructions": INSTRUCTIONS,
    }


async def _ping(call: McpCall) -> Any:
    return {}


async def _tools_list(call: McpCall) -> Any:
    call.session()  # raises for an unknown session
    tools = [
        {"name": name, "description": tool.description, "inputSchema": schema_of(tool.takes)}
        for name, tool in TOOLS.items()
    ]
    return {"tools": tools}


async def _tools_call(call: McpCall) -> Any:
    name = call.text("name")
    if name not in TOOLS:
        raise RpcError(INVALID_PARAMS, f"tool not found: {name!r}; {known_names(name, TOOLS)}")
    result = await TOOLS[name].work(call, _arguments(call.params.arguments, TOOLS[name].takes))
    content = [{"type": "text", "text": result.observation.prompt}]
    if result.done:
        score = result.metadata.score if result.metadata else 0.0
        content.append({"type": "text", "text": EPISODE_OVER.format(score=score)})
    return {"content": content, "structuredContent": result, "data": result, "isError": False}


async def _session_create(call: McpCall) -> Any:
    return {"session_id": call.own.id if call.own else await call.open_session()}


async def _session_close(call: McpCall) -> Any:
    session = call.service.store.get(call.text("session_id"), call.caller.tenant)
    if session is call.own:
        raise RpcError(INVALID_REQUEST, "this session ends with its socket: send a close frame")
    if session.attached:
        session.closing = True
        return {"session_id": session.id, "closed": False, "closing": True}
    call.service.end(session.id, session.tenant)
    return {"session_id": session.id, "closed": True}


METHODS: dict[str, Callable[[McpCall], Awaitable[Any]]] = {
    "initialize": _initialize,
    "ping": _ping,
    "tools/list": _tools_list,
    "tools/call": _tools_call,
    "openenv/session/create": _session_create,
    "openenv/session/close": _session_close,
}


def rpc_error(service: EnvironmentService, error: ApiError) -> RpcError:
    """Count an API error and return it as a JSON-RPC error. Status 404 and 422 become the code for invalid params."""
    service.metrics.errors.labels(error.code).inc()
    data: dict[str, Any] = {"code": error.code, "blame": error.blame, "retryable": error.retryable}
    if error.code == "capacity":
        data |= {"active_sessions": len(service.store), "max_sessions": service.settings.capacity}
    return RpcError(INVALID_PARAMS if error.status in (404, 422) else SERVER_ERROR, error.message, data)


async def _result(call: McpCall, method: str) -> Any:
    service = call.service
    if method.startswith(NOTIFICATIONS):
        return {}  # a notification, such as notifications/initialized, needs no work
    if method not in METHODS:
        raise RpcError(METHOD_NOT_FOUND, f"method not found: {method!r}; {known_names(method, METHODS)}")
    try:
        return await METHODS[method](call)
    except ApiError as error:
        raise rpc_error(service, error) from error
    except RpcError:
        raise
    except Exception as error:
        service.metrics.errors.labels("internal").inc()
        service.log.error("rpc_failed", method=method, error=repr(error), stack=traceback.format_exc())
        message = f"{method} failed: {type(error).__name__}; the server's log has more"
        raise RpcError(INTERNAL_ERROR, message) from error


class _Outline(msgspec.Struct):
    """The fields that are read of a request before it is validated. Each value may have any type."""

    method: msgspec.Raw = _ABSENT
    params: msgspec.Raw = _ABSENT
    id: msgspec.Raw = _ABSENT

    def session_id(self) -> str | None:
        """Returns the session id in the params. Returns None if the params have no valid session id."""
        try:
            return _text(parse(bytes(self.params), Params).session_id)
        except ApiError:
            return None

    def number(self) -> Id:
        """Returns the id of the request. Returns None if the type of the id is invalid."""
        try:
            return cast(Id, parse(bytes(self.id), cast(type, Id)))
        except ApiError:
            return None


def _outline(raw: bytes) -> _Outline:
    try:
        return parse(raw, _Outline)
    except ApiError:
        return _Outline()


def outline(raw: bytes) -> tuple[str, str | None]:
    """Returns the method of a request and the session id in its params. An unreadable method becomes "", an unreadable
    session id becomes None.
    """
    found = _outline(raw)
    return _text(found.method) or "", found.session_id()


async def answer(
    service: EnvironmentService,
    raw: bytes,
    own: ServerSession | None = None,
    caller: Caller = UNKNOWN_CALLER,
    header: str | None = None,
) -> dict[str, Any]:
    """Returns the reply to one JSON-RPC request. An invalid request gets an error reply. The reply to a request without
    an id has the id null, as in OpenEnv's server.
    """
    number: Id = None
    try:
        try:
            request = parse(raw or b" ", McpRequest)  # `parse` would accept an empty body as {}; a blank is invalid
        except ApiError as error:
            if error.code == "invalid_json":
                raise RpcError(PARSE_ERROR, f"parse error: {error}") from error
            number = _outline(raw).number()
            raise RpcError(INVALID_REQUEST, f"invalid request: {error}") from error
        number = request.id
        call = McpCall(service, request.params, own, caller, header)
        return {"jsonrpc": "2.0", "id": number, "result": await _result(call, request.method)}
    except RpcError as error:
        return error_reply(number, error)


def error_reply(number: Id, error: RpcError) -> dict[str, Any]:
    """Returns the JSON-RPC error reply. `number`: the id of the request."""
    body = {"code": error.code, "message": error.message, "data": error.data}
    return {"jsonrpc": "2.0", "id": number, "error": body}
