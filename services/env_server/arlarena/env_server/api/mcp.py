"""MCP, the Model Context Protocol: JSON-RPC 2.0 with `initialize`, `ping`, `tools/list`, `tools/call` and OpenEnv's two
session methods. `mcp_http` is the transport.

    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"act","arguments":{"text":"up"},"session_id":"…"}}
    < {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":…}],"data":{"observation":…,"reward":…}}}

Two tools make any environment playable: `start_episode` and `act`. Both need a session: the one that `initialize` has
opened (MCP's clients repeat its header), or the one that `params.session_id` names (OpenEnv's clients). For a call
without a session, OpenEnv's server plays a fresh environment whose state is lost with the reply. Here that is an error:
no episode can be played that way, and OpenEnv's clients do not call so. OpenEnv's client reads `data`, others read
`content` and `structuredContent`.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

from arlarena.env_server.api.explanations import known
from arlarena.env_server.api.json_codec import parse
from arlarena.env_server.api.json_schema import schema_of
from arlarena.env_server.cluster import shared
from arlarena.env_server.errors import ApiError
from arlarena.env_server.sessions.service import EnvironmentService
from arlarena.env_server.sessions.store import UNKNOWN_CALLER, Caller, ServerSession
from arlarena.proto.env_api import Action, CreateSessions, ResetSpec, StepResult

# JSON-RPC 2.0, section 5.1; -32000 is the first of those left to the server.
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
SERVER_ERROR = -32000

# Versions of MCP that are spoken, the newest first: https://modelcontextprotocol.io/specification
PROTOCOL_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
NOTIFICATIONS = "notifications/"  # methods that begin so are not answered
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
    """What is read of a request's params. Values stay as they came until their type is known; others are not kept."""

    name: msgspec.Raw = _ABSENT
    arguments: msgspec.Raw = _ABSENT
    session_id: msgspec.Raw = _ABSENT
    protocol_version: msgspec.Raw = msgspec.field(default=_ABSENT, name="protocolVersion")


class McpRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON-RPC request; `params` by name alone."""

    jsonrpc: Literal["2.0"]
    method: str
    params: Params = msgspec.field(default_factory=Params)
    id: Id = None


class RpcError(Exception):
    """An error that is answered in JSON-RPC's form."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


@dataclass(frozen=True, slots=True)
class McpCall:
    """One request. `own`: the session of the socket that it came through, which it plays without naming it. `caller`:
    who asks. `header`: the session that the request's header names.
    """

    service: EnvironmentService
    params: Params
    own: ServerSession | None
    caller: Caller
    header: str | None = None

    def text(self, name: str) -> str:
        """A parameter that must be a text.

        Raises:
            RpcError: it is missing, or none.
        """
        value = _text(getattr(self.params, name))
        if not value:
            raise RpcError(INVALID_PARAMS, f"params.{_WIRE_NAMES[name]} must be a text")
        return value

    def session(self) -> ServerSession | None:
        """The session that is meant: the socket's, else the one that `session_id` or the header names, else none.

        Raises:
            RpcError: `session_id` is not a text.
            ApiError: there is no such session.
        """
        if self.own is not None:
            return self.service.store.get(self.own.id, self.own.tenant)
        named = self.header if bytes(self.params.session_id) == b"null" else self.text("session_id")
        return None if named is None else self.service.store.get(named, self.caller.tenant)

    def needed_session(self) -> ServerSession:
        """The session that is meant.

        Raises:
            RpcError: none is meant, and the message says how to get one.
            ApiError: there is no such session.
        """
        if (session := self.session()) is None:
            raise RpcError(INVALID_PARAMS, NO_SESSION)
        return session

    async def open_session(self) -> str:
        """The id of a new session, on another worker where this one has no room.

        Raises:
            ApiError: there is no room.
        """
        if self.service.peers is not None:
            opened = await shared.open_sessions(self.service, self.service.peers, CreateSessions(), self.caller)
            return opened[0].session_id
        return self.service.store.open(1, caller=self.caller)[0].id


_WIRE_NAMES = dict(zip(Params.__struct_fields__, Params.__struct_encode_fields__, strict=True))


def _text(raw: msgspec.Raw) -> str | None:
    """A JSON text; None for another value."""
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
    """A tool: what it takes, and the function behind it."""

    description: str
    takes: type[msgspec.Struct]
    work: Callable[[McpCall, Any], Awaitable[StepResult]]


TOOLS = {
    "start_episode": Tool("Begin an episode and read its first observation.", ResetSpec, _start_episode),
    "act": Tool("Say something to the environment, a whole reply or a bare action: one step.", Action, _act),
}


async def _initialize(call: McpCall) -> Any:
    """The handshake. The session that it opens is `mcp_http`'s to send, in a header."""
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
    call.session()  # an unknown session is an error here too
    tools = [
        {"name": name, "description": tool.description, "inputSchema": schema_of(tool.takes)}
        for name, tool in TOOLS.items()
    ]
    return {"tools": tools}


async def _tools_call(call: McpCall) -> Any:
    name = call.text("name")
    if name not in TOOLS:
        raise RpcError(INVALID_PARAMS, f"tool not found: {name!r}; {known(name, TOOLS)}")
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
    """An error of the API in JSON-RPC's form: the caller's mistakes are invalid params."""
    service.metrics.errors.labels(error.code).inc()
    data: dict[str, Any] = {"code": error.code, "blame": error.blame, "retryable": error.retryable}
    if error.code == "capacity":
        data |= {"active_sessions": len(service.store), "max_sessions": service.settings.capacity}
    return RpcError(INVALID_PARAMS if error.status in (404, 422) else SERVER_ERROR, error.message, data)


async def _result(call: McpCall, method: str) -> Any:
    service = call.service
    if method.startswith(NOTIFICATIONS):
        return {}  # such as notifications/initialized: there is nothing to do
    if method not in METHODS:
        raise RpcError(METHOD_NOT_FOUND, f"method not found: {method!r}; {known(method, METHODS)}")
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
    """What can be known of a request that may not be valid: other fields are ignored, and values of any type taken."""

    method: msgspec.Raw = _ABSENT
    params: msgspec.Raw = _ABSENT
    id: msgspec.Raw = _ABSENT

    def session_id(self) -> str | None:
        """The session that the params name."""
        try:
            return _text(parse(bytes(self.params), Params).session_id)
        except ApiError:
            return None

    def number(self) -> Id:
        """The request's id, None where it is of no type that an id may have."""
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
    """The method of a request and the session that its params name, "" and None where they cannot be read."""
    found = _outline(raw)
    return _text(found.method) or "", found.session_id()


async def answer(
    service: EnvironmentService,
    raw: bytes,
    own: ServerSession | None = None,
    caller: Caller = UNKNOWN_CALLER,
    header: str | None = None,
) -> dict[str, Any]:
    """The reply to one JSON-RPC request, valid or not. It has the id null if the request has none, as in OpenEnv."""
    number: Id = None
    try:
        try:
            request = parse(raw or b" ", McpRequest)  # an empty body is not a request
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
    """An error in JSON-RPC's form."""
    body = {"code": error.code, "message": error.message, "data": error.data}
    return {"jsonrpc": "2.0", "id": number, "error": body}
