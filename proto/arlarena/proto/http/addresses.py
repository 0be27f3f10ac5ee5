"""Addresses of services, as people write them."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def service_url(url: str) -> str:
    """`url` without blanks around it, slashes at its end, and a last `/v1`, which OpenAI's clients want and routes here
    begin with: `http://host:8100/v1/` is `http://host:8100`.

    Raises:
        TypeError: it is not a text.
        ValueError: it is not an http(s) URL with a host, or its port is not a number.
    """
    if not isinstance(url, str):
        raise TypeError(f"a service address must be a text (str) like http://127.0.0.1:8000, not {url!r}")
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
    """Whether only this machine reaches a server that binds `host`, an address or a name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
