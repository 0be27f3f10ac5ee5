"""The MCP façade: JSON-RPC 2.0 with `tools/list`, `tools/call` and OpenEnv's two session methods.

    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"act","arguments":{"text":"up"},"session_id":"…"}}
    < {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":…}],"data":{"observation":…,"reward":…}}}

Two tools make any environment playable: `start_episode` and `act`. A call that names no session plays a fresh episode
which ends with the reply, as `/reset` and `/step` do. OpenEnv's client reads `data`, other MCP clients `content` and
`structuredContent`; both say the same.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from arlarena.env_server.errors import ApiError
from arlarena.env_server.schemas import schema_of
from arlarena.env_server.service import EnvironmentService
from arlarena.env_server.sessions import Session
from arlarena.env_server.wire import decode
from arlarena.proto.env import Action, ResetSpec, StepResult

# JSON-RPC 2.0, section 5.1; -32000 is the first of those left to the server.
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
SERVER_ERROR = -32000

Id = int | str | None


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON-RPC request; `params` by name alone."""

    jsonrpc: Literal["2.0"]
    method: str
    params: dict[str, Any] = {}
    id: Id = None


class RpcError(Exception):
    """An error that is answered in JSON-RPC's form."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `own`: the session of the socket that it came through, which it plays without naming it. `owner`:
    who asks.
    """

    service: EnvironmentService
    params: dict[str, Any]
    own: Session | None
    owner: str | None

    def text(self, name: str) -> str:
        """A parameter that must be a text.

        Raises:
            RpcError: it is missing, or none.
        """
        value = self.params.get(name)
        if not isinstance(value, str) or not value:
            raise RpcError(INVALID_PARAMS, f"params.{name} must be a text")
        return value

    def session(self) -> Session | None:
        """The session that is meant: the socket's, else the one that `session_id` names, else none.

        Raises:
            RpcError: there is no such session.
        """
        if self.own is not None:
            return self.service.store.get(self.own.id)
        return self.service.store.get(self.text("session_id")) if self.params.get("session_id") is not None else None


def _arguments(given: Any, kind: type[msgspec.Struct]) -> Any:
    try:
        return msgspec.convert({} if given is None else given, kind)
    except msgspec.ValidationError as error:
        raise RpcError(INVALID_PARAMS, f"params.arguments: {error}") from error


async def _start_episode(call: Call, arguments: ResetSpec) -> StepResult:
    session = call.session()
    if session is not None:
        return await call.service.reset(session, arguments)
    return (await call.service.start(arguments))[1]


async def _act(call: Call, arguments: Action) -> StepResult:
    session = call.session()
    if session is not None:
        return await call.service.step(session, arguments.text)
    return await call.service.first_step(arguments.text)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: what it takes, and the function behind it."""

    description: str
    takes: type[msgspec.Struct]
    work: Callable[[Call, Any], Awaitable[StepResult]]


TOOLS = {
    "start_episode": Tool("Begin an episode and read its first observation.", ResetSpec, _start_episode),
    "act": Tool("Say something to the environment, a whole reply or a bare action: one step.", Action, _act),
}


async def _tools_list(call: Call) -> Any:
    call.session()  # an unknown session is an error here too
    tools = [
        {"name": name, "description": tool.description, "inputSchema": schema_of(tool.takes)}
        for name, tool in TOOLS.items()
    ]
    return {"tools": tools}


async def _tools_call(call: Call) -> Any:
    name = call.text("name")
    if name not in TOOLS:
        raise RpcError(INVALID_PARAMS, f"tool not found: {name!r}; known: {', '.join(TOOLS)}")
    result = await TOOLS[name].work(call, _arguments(call.params.get("arguments"), TOOLS[name].takes))
    content = [{"type": "text", "text": result.observation.prompt}]
    return {"content": content, "structuredContent": result, "data": result, "isError": False}


async def _session_create(call: Call) -> Any:
    session = call.own or call.service.store.open(1, owner=call.owner)[0]
    return {"session_id": session.id}


async def _session_close(call: Call) -> Any:
    session = call.service.store.get(call.text("session_id"))
    if session is call.own:
        raise RpcError(INVALID_REQUEST, "this session ends with its socket: send a close frame")
    if session.attached:
        session.closing = True
        return {"session_id": session.id, "closed": False, "closing": True}
    call.service.end(session.id)
    return {"session_id": session.id, "closed": True}


METHODS: dict[str, Callable[[Call], Awaitable[Any]]] = {
    "tools/list": _tools_list,
    "tools/call": _tools_call,
    "openenv/session/create": _session_create,
    "openenv/session/close": _session_close,
}


def _rpc_error(service: EnvironmentService, error: ApiError) -> RpcError:
    """An error of the API in JSON-RPC's form: the caller's mistakes are invalid params."""
    service.metrics.errors.labels(error.code).inc()
    data: dict[str, Any] = {"code": error.code, "blame": error.blame, "retryable": error.retryable}
    if error.code == "capacity":
        data |= {"active_sessions": len(service.store), "max_sessions": service.settings.capacity}
    return RpcError(INVALID_PARAMS if error.status in (404, 422) else SERVER_ERROR, error.message, data)


async def _result(service: EnvironmentService, request: Request, own: Session | None, owner: str | None) -> Any:
    if request.method not in METHODS:
        raise RpcError(METHOD_NOT_FOUND, f"method not found: {request.method!r}; known: {', '.join(METHODS)}")
    try:
        return await METHODS[request.method](Call(service, request.params, own, owner))
    except ApiError as error:
        raise _rpc_error(service, error) from error
    except RpcError:
        raise
    except Exception as error:
        service.metrics.errors.labels("internal").inc()
        service.log.error("rpc_failed", method=request.method, error=repr(error), stack=traceback.format_exc())
        message = f"{request.method} failed: {type(error).__name__}; the server's log has more"
        raise RpcError(INTERNAL_ERROR, message) from error


class _Named(msgspec.Struct):
    params: dict[str, Any] = {}


def session_meant(raw: bytes) -> str | None:
    """The session that a request names, if it can be read at all."""
    try:
        named = decode(raw, _Named).params.get("session_id")
    except ApiError:
        return None
    return named if isinstance(named, str) else None


async def answer(
    service: EnvironmentService, raw: bytes, own: Session | None = None, owner: str | None = None
) -> dict[str, Any]:
    """The reply to one JSON-RPC request, whatever was sent."""
    number: Id = None
    try:
        try:
            request = decode(raw or b" ", Request)  # nothing is no request
        except ApiError as error:
            if error.code == "invalid_json":
                raise RpcError(PARSE_ERROR, f"parse error: {error}") from error
            raise RpcError(INVALID_REQUEST, f"invalid request: {error}") from error
        number = request.id
        return {"jsonrpc": "2.0", "id": number, "result": await _result(service, request, own, owner)}
    except RpcError as error:
        body = {"code": error.code, "message": error.message, "data": error.data}
        return {"jsonrpc": "2.0", "id": number, "error": body}
