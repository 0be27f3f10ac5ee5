"""The base URL of a service, as people write it."""

from __future__ import annotations

from urllib.parse import urlsplit


def service_url(url: str) -> str:
    """`url` without blanks around it, slashes at its end, and a last `/v1`, which OpenAI's clients want and routes here
    begin with: `http://host:8100/v1/` is `http://host:8100`.

    Raises:
        ValueError: it is not an http(s) URL with a host.
    """
    base = url.strip().rstrip("/")
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not a service address; write it like http://127.0.0.1:8000")
    return base.removesuffix("/v1").rstrip("/") if parts.path.endswith("/v1") else base
