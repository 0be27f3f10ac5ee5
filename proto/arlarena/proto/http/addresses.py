"""Base URLs and loopback addresses of services."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def service_url(url: str) -> str:
    """Returns `url` without white space at both ends, final slashes and a final `/v1`.

    For `http://host:8100/v1/`, returns `http://host:8100`. The base URL of an OpenAI client ends with `/v1`. In this
    repository, the routes begin with `/v1` instead.

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
        raise ValueError(f"{url!r} is not a service address; write it like http://127.0.0.1:8000")
    return base.removesuffix("/v1").rstrip("/") if parts.path.endswith("/v1") else base


def is_loopback(host: str) -> bool:
    """True if `host` (an IP address or a name) is a loopback address. Only this machine can reach such a server."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
