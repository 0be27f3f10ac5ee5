"""Adds the password to the URL of the broker (Redis or Valkey), because users may keep the password outside the URL.

The password comes from the first of these sources that has one:
1. the URL;
2. the environment variable `REDIS_PASSWORD`;
3. the file with the path in the environment variable `REDIS_PASSWORD_FILE`;
4. the file with the path in `[redis] password_file`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from arlarena.proto.config import FILE_SUFFIX, read_secret, secret_from
from arlarena.proto.text.redaction import register_secret

VARIABLE = "REDIS_PASSWORD"
FILE_VARIABLE = VARIABLE + FILE_SUFFIX


def broker_url(url: str, environment: Mapping[str, str], password_file: str = "") -> str:
    """Returns `url` with the broker's password. If no source has a password, `url` is returned unchanged.

    `environment`: the environment variables. `password_file`: the value of `[redis] password_file`, or "".

    Raises:
        ConfigError: a password file cannot be read or is empty.
    """
    if url_has_password(url):
        return url
    password = secret_from(environment, VARIABLE)
    if password is None and password_file:
        password = read_secret(Path(password_file), "[redis] password_file")
    return with_password(url, password) if password else url


def with_password(url: str, password: str) -> str:
    """Returns `url` with the percent-encoded `password`. Also registers the password, so that logs mask it."""
    register_secret(password)
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))


def url_has_password(url: str) -> bool:
    """True if `url` contains a password, before the host name or in the query."""
    parts = urlsplit(url)
    return ":" in parts.netloc.rpartition("@")[0] or "password" in parse_qs(parts.query)
