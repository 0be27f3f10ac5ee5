"""MCP, the Model Context Protocol. Its messages are JSON-RPC 2.0 requests. The methods are `initialize`, `ping`,
`tools/list`, `tools/call`, and OpenEnv's two session methods. The module `mcp_http` is the HTTP transport.

    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"act","arguments":{"text":"up"},"session_id":"…"}}
    < {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":…}],"data":{"observation":…,"reward":…}}}

Every environment has two tools: `start_episode` and `act`. Each call of a tool needs a session. For MCP clients,
`initialize` opens the session, and the clients send the session's id in a header. OpenEnv's clients send the id in
`params.session_id`. A call without a session is an error. (OpenEnv's server would use a new environment for the call,
and lose the state of this environment after the reply.) OpenEnv's client reads the field `data` of a result. Other
clients read `content` and `structuredContent`.
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

# Error codes of JSON-RPC 2.0, section 5.1. A server may define the codes from -32000 to -32099.
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
SERVER_ERROR = -32000

# Supported versions of MCP, newest first: https://modelcontextprotocol.io/specification
PROTOCOL_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
NOTIFICATIONS = "notifications/"  # prefix of the methods that need no reply
INSTRUCTIONS = (
    "Call start_episode to begin an episode and to get its task. Then call act, once for each action, until the result "
    "says that the episode is over. To begin the next episode, call start_episode again."
)
NO_SESSION = (
    "tools/call needs a session. Either send 'initialize', and send the header Mcp-Session-Id of its reply with every "
    "later request. Or call 'openenv/session/create', and send the session_id of its reply in params"
)
EPISODE_OVER = "The episode is over. Its score is {score:g} of 1. Call start_episode to begin the next episode."

Id = int | float | str | None


_ABSENT = msgspec.Raw(b"null")


class Params(msgspec.Struct):
    """The `params` of a request. The values stay raw JSON until the method decodes them."""

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
    """One request. `caller`: the client that sent the request. `socket_session`: the session of the WebSocket that
    received the request; None for a request over HTTP. `header`: the session id in the header Mcp-Session-Id; None if
    the request has no such header.
    """

    service: EnvironmentService
    params: Params
    socket_session: ServerSession | None
    caller: Caller
    header: str | None = None

    def text(self, name: str) -> str:
        """Returns the parameter `name`, a non-empty string.

        Raises:
            RpcError: the parameter is missing, is empty or is not a string.
        """
        value = _text(getattr(self.params, name))
        if not value:
            raise RpcError(INVALID_PARAMS, f"params.{_WIRE_NAMES[name]} must be a non-empty string")
        return value

    def session(self) -> ServerSession | None:
        """Returns the session of the request. On a WebSocket, this is the socket's own session. Over HTTP, `session_id`
        in the params is the id of the session. If `session_id` is missing, the header is the id. Returns None if both
        are missing.

        Raises:
            RpcError: `session_id` is not a string, or is empty.
            ApiError: the session does not exist.
        """
        if self.socket_session is not None:
            return self.service.store.get(self.socket_session.id, self.socket_session.tenant)
        named = self.header if bytes(self.params.session_id) == b"null" else self.text("session_id")
        return None if named is None else self.service.store.get(named, self.caller.tenant)

    def require_session(self) -> ServerSession:
        """Returns the session of the request (see `session`).

        Raises:
            RpcError: the request names no session. The message says how to open a session.
            ApiError: the session does not exist.
        """
        if (session := self.session()) is None:
            raise RpcError(INVALID_PARAMS, NO_SESSION)
        return session

    async def open_session(self) -> str:
        """Open a session and return its id. If this worker is full, another worker opens the session.

        Raises:
            ApiError: see `SessionStore.open`.
        """
        if self.service.peers is not None:
            opened = await shared.open_sessions(self.service, self.service.peers, CreateSessions(), self.caller)
            return opened[0].session_id
        return self.service.store.open(1, caller=self.caller)[0].id


_WIRE_NAMES = dict(zip(Params.__struct_fields__, Params.__struct_encode_fields__, strict=True))


def _text(raw: msgspec.Raw) -> str | None:
    """Returns a JSON string as `str`. Returns None if the value is not a string."""
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
    return await call.service.reset(call.require_session(), arguments)


async def _act(call: McpCall, arguments: Action) -> StepResult:
    return await call.service.step(call.require_session(), arguments.text)


@dataclass(frozen=True, slots=True)
class Tool:
    """An MCP tool. `arguments_type`: the type of the arguments. `work`: the function that runs the tool."""

    description: str
    arguments_type: type[msgspec.Struct]
    work: Callable[[McpCall, Any], Awaitable[StepResult]]


TOOLS = {
    "start_episode": Tool("Begin an episode and get its first observation.", ResetSpec, _start_episode),
    "act": Tool("Take one step: send a complete reply, or only an action, to the environment.", Action, _act),
}


async def _initialize(call: McpCall) -> Any:
    """Returns the reply to the handshake. The module `mcp_http` opens the session."""
    version, info = call.text("protocol_version"), call.service.info
    return {
        "protocolVersion": version if version in PROTOCOL_VERSIONS else PROTOCOL_VERSIONS[0],
        "capabilities": {"tools": {}},
        "serverInfo": {"name": f"arlarena-{info.name}", "title": info.description, "version": info.version},
        "instructions": INSTRUCTIONS,
    }


async def _ping(call: McpCall) -> Any:
    return {}


async def _tools_list(call: McpCall) -> Any:
    call.session()  # raises an error if the session does not exist
    tools = [
        {"name": name, "description": tool.description, "inputSchema": schema_of(tool.arguments_type)}
        for name, tool in TOOLS.items()
    ]
    return {"tools": tools}


async def _tools_call(call: McpCall) -> Any:
    name = call.text("name")
    if name not in TOOLS:
        raise RpcError(INVALID_PARAMS, f"tool not found: {name!r}; {known_names(name, TOOLS)}")
    tool = TOOLS[name]
    result = await tool.work(call, _arguments(call.params.arguments, tool.arguments_type))
    content = [{"type": "text", "text": result.observation.prompt}]
    if result.done:
        score = result.metadata.score if result.metadata else 0.0
        content.append({"type": "text", "text": EPISODE_OVER.format(score=score)})
    return {"content": content, "structuredContent": result, "data": result, "isError": False}


async def _session_create(call: McpCall) -> Any:
    return {"session_id": call.socket_session.id if call.socket_session else await call.open_session()}


async def _session_close(call: McpCall) -> Any:
    session = call.service.store.get(call.text("session_id"), call.caller.tenant)
    if session is call.socket_session:
        raise RpcError(INVALID_REQUEST, "this session belongs to this socket: to end the session, send a close frame")
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
    """Count an API error and return it as a JSON-RPC error. Statuses 404 and 422 become the code `INVALID_PARAMS`."""
    service.metrics.errors.labels(error.code).inc()
    data: dict[str, Any] = {"code": error.code, "blame": error.blame, "retryable": error.retryable}
    if error.code == "capacity":
        data |= {"active_sessions": len(service.store), "max_sessions": service.settings.capacity}
    return RpcError(INVALID_PARAMS if error.status in (404, 422) else SERVER_ERROR, error.message, data)


async def _result(call: McpCall, method: str) -> Any:
    service = call.service
    if method.startswith(NOTIFICATIONS):
        return {}  # notifications, such as notifications/initialized, are ignored
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
        message = f"{method} failed: {type(error).__name__}; the server's log has the details"
        raise RpcError(INTERNAL_ERROR, message) from error


class _UncheckedRequest(msgspec.Struct):
    """The fields of a request that has not been validated. Each value may have any type."""

    method: msgspec.Raw = _ABSENT
    params: msgspec.Raw = _ABSENT
    id: msgspec.Raw = _ABSENT

    def session_id(self) -> str | None:
        """Returns the session id in the params, or None if the params have no valid session id."""
        try:
            return _text(parse(bytes(self.params), Params).session_id)
        except ApiError:
            return None

    def request_id(self) -> Id:
        """Returns the id of the request, or None if the type of the id is invalid."""
        try:
            return cast(Id, parse(bytes(self.id), cast(type, Id)))
        except ApiError:
            return None


def _unchecked(raw: bytes) -> _UncheckedRequest:
    try:
        return parse(raw, _UncheckedRequest)
    except ApiError:
        return _UncheckedRequest()


def method_and_session(raw: bytes) -> tuple[str, str | None]:
    """Returns (method, session id) of a request. The session id is the one in the params.

    A missing or invalid method becomes "". A missing or invalid session id becomes None.
    """
    request = _unchecked(raw)
    return _text(request.method) or "", request.session_id()


async def answer(
    service: EnvironmentService,
    raw: bytes,
    socket_session: ServerSession | None = None,
    caller: Caller = UNKNOWN_CALLER,
    header: str | None = None,
) -> dict[str, Any]:
    """Returns the reply to one JSON-RPC request. The reply to an invalid request is an error reply. If the request has
    no id, the id of the reply is null, as in OpenEnv's server. `raw`: the request. Other arguments: see `McpCall`.
    """
    request_id: Id = None
    try:
        try:
            # `parse` reads an empty body as {}. A blank is invalid JSON, so an empty request becomes an error.
            request = parse(raw or b" ", McpRequest)
        except ApiError as error:
            if error.code == "invalid_json":
                raise RpcError(PARSE_ERROR, f"parse error: {error}") from error
            request_id = _unchecked(raw).request_id()
            raise RpcError(INVALID_REQUEST, f"invalid request: {error}") from error
        request_id = request.id
        call = McpCall(service, request.params, socket_session, caller, header)
        return {"jsonrpc": "2.0", "id": request_id, "result": await _result(call, request.method)}
    except RpcError as error:
        return error_reply(request_id, error)


def error_reply(request_id: Id, error: RpcError) -> dict[str, Any]:
    """Returns the JSON-RPC error reply to the request with this id."""
    body = {"code": error.code, "message": error.message, "data": error.data}
    return {"jsonrpc": "2.0", "id": request_id, "error": body}
