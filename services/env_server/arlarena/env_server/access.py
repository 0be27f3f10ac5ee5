"""Who may use the server: a bearer token, where one is set."""

from __future__ import annotations

import secrets

from starlette.requests import HTTPConnection

from arlarena.env_server.errors import ApiError
from arlarena.env_server.peers import CLIENT, is_hop
from arlarena.env_server.settings import EnvironmentSettings

# What an orchestrator asks before it has a token.
OPEN_PATHS = frozenset({"/health", "/ready"})


def check_token(connection: HTTPConnection, settings: EnvironmentSettings) -> None:
    """Let the connection pass.

    Raises:
        ApiError: 401, a token is set and the connection does not bring it.
    """
    if settings.token is None or connection.url.path in OPEN_PATHS or is_hop(connection):
        return  # a fellow worker has asked already
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    right = secrets.compare_digest(given.strip().encode(), settings.token.get_secret_value().encode())
    if scheme.lower() != "bearer" or not right:
        message = "this server asks for a token: send the header Authorization: Bearer <token>"
        raise ApiError(401, "unauthorized", message)


def client_of(connection: HTTPConnection) -> str:
    """Who is calling, for limits per client: the caller's address, which a fellow worker passes on."""
    if is_hop(connection):
        return connection.headers.get(CLIENT, "unknown")
    return connection.client.host if connection.client else "unknown"
