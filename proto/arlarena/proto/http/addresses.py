"""Base URLs and loopback addresses of services."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def service_url(url: str) -> str:
    """Removes surrounding blanks, trailing slashes and a final `/v1` from `url`. Returns the result.

    `http://host:8100/v1/` becomes `http://host:8100`. Base URLs for OpenAI's clients end with `/v1`. In this code, each
    route begins with `/v1` instead.

    Raises:
        TypeError: `url` is not a string.
        ValueError: `url` is not an http(s) URL with a host, or its port is not a number.
    """
    if not isinstance(url, str):
        raise TypeError(f"a service address must be a string like http://127.0.0.1:8000, not {url!r}")
    base = url.strip().rstrip("/")
    try:
        parts = urlsplit(base)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, or brackets that do not match
        usable = False
    if not usable:
        raise ValueError(f"{url!r} is not a service address; give one like http://127.0.0.1:8000")
    return base.removesuffix("/v1").rstrip("/") if parts.path.endswith("/v1") else base


def is_loopback(host: str) -> bool:
    """True if only this machine can reach a server that binds `host` (an address or a name)."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
