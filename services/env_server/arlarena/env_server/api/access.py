"""Access control: bearer tokens, tenants and client addresses. Every token belongs to a tenant. Sessions, snapshots
and frames belong to the tenant that created them.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from arlarena.env_server.cluster.peers import CLIENT, TENANT, is_hop
from arlarena.env_server.errors import ApiError
from arlarena.env_server.sessions.store import Caller
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.proto.config import ConfigError
from arlarena.proto.telemetry import Logger
from arlarena.proto.text.files import TextFileError, read_text

# Paths that an orchestrator probes without a token.
OPEN_PATHS = frozenset({"/health", "/ready"})
# Methods that web pages of another origin must not use. A WebSocket starts with GET and is checked like these methods.
CHANGING_METHODS = frozenset({"POST", "DELETE", "PUT", "PATCH"})
_LINE = re.compile(r"(?:(?P<name>[A-Za-z0-9_.-]{1,64}):)?(?P<token>[\x21-\x7e]+)")
_FIRST = "token"  # the tenant of the setting `token`


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def read_tokens(path: Path) -> dict[bytes, str]:
    """Returns the tenants of a token file, by token hash. A token without a name forms a tenant of its own.

    Raises:
        ConfigError: the file is unreadable, has no token, or has an invalid line. The message contains no token.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, TextFileError) as error:
        raise ConfigError(f"[environment] tokens_file: {error}") from error
    tenants: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        if (found := _LINE.fullmatch(line.strip())) is None:
            raise ConfigError(f"[environment] tokens_file: {path}, line {number}: neither TOKEN nor NAME:TOKEN")
        digest = _digest(found["token"])
        tenants[digest] = found["name"] or digest.hex()[:12]
    if not tenants:
        raise ConfigError(f"[environment] tokens_file: {path} has no token")
    return tenants


class TenantTokens:
    """The tokens of one server.

    Raises:
        ConfigError: see `read_tokens`.
    """

    def __init__(self, settings: EnvironmentSettings, log: Logger) -> None:
        self._log = log
        self._path = settings.tokens_file
        given = settings.token.get_secret_value() if settings.token else None
        self._given = {} if given is None else {_digest(given): _FIRST}
        self._stamp = self._file_stamp()
        self._tenants = self._given | ({} if self._path is None else read_tokens(self._path))

    def refresh(self) -> None:
        """Read the token file again if the file has changed. An invalid file is logged and ignored."""
        if self._path is None or (stamp := self._file_stamp()) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tenants = self._given | read_tokens(self._path)
        except ConfigError as error:
            self._log.error("tokens_not_read", error=str(error))
        else:
            self._log.info("tokens_read", count=len(self._tenants))

    def _file_stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return None
        return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)

    def caller(self, connection: HTTPConnection) -> Caller:
        """Returns the caller of a request. For a request that another worker forwarded, the caller is in the headers,
        because that worker has already checked the token.

        Raises:
            ApiError: 401 for a missing or wrong token, 403 for a page of another origin.
        """
        if is_hop(connection):
            headers = connection.headers
            return Caller(headers.get(CLIENT, "unknown"), headers.get(TENANT))
        self._check_origin(connection)
        address = connection.client.host if connection.client else "unknown"
        if not self._tenants or connection.url.path in OPEN_PATHS:
            return Caller(address)
        authorization = connection.headers.get("authorization", "")
        scheme, _, given = authorization.partition(" ")
        tenant = self._tenants.get(_digest(given.strip())) if scheme.lower() == "bearer" else None
        if tenant is None:
            message = "this server asks for a token: send the header Authorization: Bearer <token>"
            raise ApiError(401, "unauthorized", message)
        return Caller(address, tenant, authorization)

    def _check_origin(self, connection: HTTPConnection) -> None:
        """Refuse requests from web pages of another origin, because a browser can send them to a loopback address. Only
        browsers send the header Origin. On a server without tokens, Host must be an IP address or localhost, because
        an attacker's host name may resolve to this server (DNS rebinding).

        Raises:
            ApiError: 403.
        """
        origin = connection.headers.get("origin")
        if origin is None or connection.scope.get("method", "POST") not in CHANGING_METHODS:
            return
        host = connection.headers.get("host", "").lower()
        own = origin.lower() in (f"http://{host}", f"https://{host}")
        if not own or not (self._tenants or _is_address(host)):
            message = f"a page of {origin[:100]!r} asks, and this server takes requests of its own pages alone (Origin)"
            raise ApiError(403, "cross_origin", message)


def _is_address(host: str) -> bool:
    """True if a Host header is an IP address or localhost."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
