"""Access control: bearer tokens, tenants and client addresses. A tenant is a user of the server, with one or more
tokens. Sessions, snapshots and frames (images) belong to the tenant that created them.
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

# These paths need no token, because orchestrators probe them.
OPEN_PATHS = frozenset({"/health", "/ready"})
# Methods that are refused if the request comes from a web page of another origin. A WebSocket counts as POST.
CHANGING_METHODS = frozenset({"POST", "DELETE", "PUT", "PATCH"})
_LINE = re.compile(r"(?:(?P<name>[A-Za-z0-9_.-]{1,64}):)?(?P<token>[\x21-\x7e]+)")
_TENANT_OF_SETTING = "token"  # the tenant of the setting `token`


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def read_tokens(path: Path) -> dict[bytes, str]:
    """Reads a token file. Returns the name of each token's tenant, by the SHA-256 of the token. Tokens with the same
    name belong to one tenant. Each token without a name belongs to a separate tenant.

    Raises:
        ConfigError: the file cannot be read, contains no token, or has an invalid line. The message omits the tokens.
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
            raise ConfigError(
                f"[environment] tokens_file: {path}, line {number} must have the form TOKEN or NAME:TOKEN"
            )
        digest = _digest(found["token"])
        tenants[digest] = found["name"] or digest.hex()[:12]
    if not tenants:
        raise ConfigError(f"[environment] tokens_file: {path} contains no token")
    return tenants


class TenantTokens:
    """The tokens of one server, from the settings `token` and `tokens_file`.

    Raises:
        ConfigError: see `read_tokens`.
    """

    def __init__(self, settings: EnvironmentSettings, log: Logger) -> None:
        self._log = log
        self._path = settings.tokens_file
        given = settings.token.get_secret_value() if settings.token else None
        self._from_setting = {} if given is None else {_digest(given): _TENANT_OF_SETTING}
        self._file_version = self._current_file_version()
        self._tenants = self._from_setting | ({} if self._path is None else read_tokens(self._path))

    def refresh(self) -> None:
        """Read the token file again if it has changed. If it is now invalid, log the error and keep the old tokens."""
        if self._path is None or (version := self._current_file_version()) == self._file_version:
            return
        self._file_version = version
        try:
            self._tenants = self._from_setting | read_tokens(self._path)
        except ConfigError as error:
            self._log.error("tokens_not_read", error=str(error))
        else:
            self._log.info("tokens_read", count=len(self._tenants))

    def _current_file_version(self) -> tuple[int, int, int] | None:
        """Returns the modification time, size and inode of the token file, or None if there is no file."""
        try:
            status = self._path.stat() if self._path else None
        except OSError:
            return None
        return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)

    def caller(self, connection: HTTPConnection) -> Caller:
        """Returns the caller of a request. If another worker forwarded the request, the headers CLIENT and TENANT name
        the caller, and the other worker has already checked the token.

        Raises:
            ApiError: 401 if the token is missing or wrong, 403 if a web page of another origin sent the request.
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
            message = "this server requires a token: send the header Authorization: Bearer <token>"
            raise ApiError(401, "unauthorized", message)
        return Caller(address, tenant, authorization)

    def _check_origin(self, connection: HTTPConnection) -> None:
        """Refuse requests from web pages of another origin. Any web page can send requests to the loopback address of
        the browser's machine. Only browsers send the header Origin.

        An attacker's host name can resolve to this server (DNS rebinding). If the server has no tokens, the header Host
        of a browser's request must therefore be an IP address or localhost.

        Raises:
            ApiError: 403 if the request is refused.
        """
        origin = connection.headers.get("origin")
        if origin is None or connection.scope.get("method", "POST") not in CHANGING_METHODS:
            return
        host = connection.headers.get("host", "").lower()
        own = origin.lower() in (f"http://{host}", f"https://{host}")
        if not own or not (self._tenants or _is_ip_or_localhost(host)):
            message = f"this server refuses requests from web pages of other origins (header Origin): {origin[:100]!r}"
            raise ApiError(403, "cross_origin", message)


def _is_ip_or_localhost(host: str) -> bool:
    """True if the value of a Host header is an IP address or localhost."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
