"""MCP over HTTP: the Streamable HTTP transport without server-initiated messages.

    POST   /mcp   one JSON-RPC message. A request is answered with 200 and JSON, a notification with 202 and no body.
    DELETE /mcp   ends the session with the id in the header `Mcp-Session-Id`.
    GET    /mcp   405, because the server does not offer a stream.

`initialize` opens a session of the environment. The reply has the session's id in the header `Mcp-Session-Id`. Clients
send this header with every later request. If the session has ended, the reply is 404, and the client must send
`initialize` again. OpenEnv's clients do not send this header (see `mcp`).
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from arlarena.env_server.api import mcp
from arlarena.env_server.api.json_codec import reply
from arlarena.env_server.errors import ApiError, invalid
from arlarena.env_server.sessions.service import EnvironmentService
from arlarena.env_server.sessions.store import Caller

SESSION_HEADER, VERSION_HEADER = "mcp-session-id", "mcp-protocol-version"


def session_id_of(raw: bytes, headers: Mapping[str, str]) -> str | None:
    """Returns the session id in the params of a request. If there is none, returns the session id in the header."""
    return mcp.method_and_session(raw)[1] or headers.get(SESSION_HEADER)


async def post(service: EnvironmentService, raw: bytes, headers: Mapping[str, str], caller: Caller) -> Response:
    """Handle one message and return the HTTP response."""
    version, session_id = headers.get(VERSION_HEADER), headers.get(SESSION_HEADER)
    method, id_in_params = mcp.method_and_session(raw)
    if version is not None and version not in mcp.PROTOCOL_VERSIONS:
        message = f"{VERSION_HEADER}: {version!r} is not supported; known: {', '.join(mcp.PROTOCOL_VERSIONS)}"
        return reply(mcp.error_reply(None, mcp.RpcError(mcp.INVALID_REQUEST, message)), 400)
    if method == "initialize":
        return await _initialize(service, raw, caller)
    if session_id is not None and id_in_params is None:
        try:
            service.store.get(session_id, caller.tenant)
        except ApiError as error:
            return reply(mcp.error_reply(None, mcp.rpc_error(service, error)), 404)
    answer = await mcp.answer(service, raw, caller=caller, header=session_id)
    if method.startswith(mcp.NOTIFICATIONS) and "result" in answer:
        return Response(status_code=202)
    return reply(answer)


async def _initialize(service: EnvironmentService, raw: bytes, caller: Caller) -> Response:
    """Answer the handshake and open a session. The reply has the session's id in the header `Mcp-Session-Id`."""
    answer = await mcp.answer(service, raw, caller=caller)
    if "result" not in answer:
        return reply(answer)
    try:
        session_id = await mcp.McpCall(service, mcp.Params(), None, caller).open_session()
    except ApiError as error:
        return reply(mcp.error_reply(answer["id"], mcp.rpc_error(service, error)))
    return reply(answer, headers={SESSION_HEADER: session_id})


def close(service: EnvironmentService, headers: Mapping[str, str], caller: Caller) -> Response:
    """End the session with the id in the header `Mcp-Session-Id`.

    Raises:
        ApiError: 404 if the session does not exist, 422 if the header is missing.
    """
    if (session_id := headers.get(SESSION_HEADER)) is None:
        raise invalid(f"DELETE /mcp needs the header {SESSION_HEADER} with the id of the session to end")
    service.end(session_id, caller.tenant)
    return Response(status_code=204)
