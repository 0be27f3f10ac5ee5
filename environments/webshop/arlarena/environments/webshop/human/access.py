"""Decides which requests the shop accepts. Forms that pages of other origins send are refused. Requests from other
machines need the token.
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from fastapi import Request

from arlarena.proto.config import ConfigError
from arlarena.proto.http.addresses import is_loopback
from arlarena.proto.text.redaction import register_secret


def check_token(host: str, token: str | None) -> None:
    """Check that a server has a token if other machines can reach it.

    Raises:
        ConfigError: `host` is not a loopback address, and there is no token.
    """
    register_secret(token)
    if not token and not is_loopback(host):
        raise ConfigError(
            f"--host {host}: other machines can reach this server: set a token in the environment variable "
            "WEBSHOP_HUMAN_TOKEN (recommended) or with --token"
        )


def token_matches(token: str | None, given: str) -> bool:
    """Return whether `given` is the server's token. Return True if the server has no token."""
    return token is None or hmac.compare_digest(token.encode(), given.encode())


def problem_of(request: Request, *, has_token: bool) -> str:
    """Return the reason why a request is refused. Return "" if the request is accepted.

    A page of another origin could send forms to a loopback address, so such forms are refused. Without a token, `Host`
    must be an address or localhost, because an attacker's host name may resolve to this server (DNS rebinding).
    """
    host, origin = request.headers.get("host", "").lower(), request.headers.get("origin")
    if not has_token and not _is_address(host):
        return f"Open this shop by an address or as localhost, not as {host[:100]!r}."
    if request.method == "POST" and origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
        return f"A page of {origin[:100]!r} sent this form, but the shop accepts only forms of its own pages."
    return ""


def _is_address(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
