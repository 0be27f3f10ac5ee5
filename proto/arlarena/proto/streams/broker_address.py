"""Adds the password to the URL of the broker (Redis or Valkey). Users may keep the password outside the URL.

The password is taken from the first source that has one: the URL, the environment variable `REDIS_PASSWORD`, the file
that the environment variable `REDIS_PASSWORD_FILE` names, the file that `[redis] password_file` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from arlarena.proto.config import ConfigError
from arlarena.proto.text.redaction import register_secret

VARIABLE, FILE_VARIABLE = "REDIS_PASSWORD", "REDIS_PASSWORD_FILE"


def broker_url(url: str, environment: Mapping[str, str], password_file: str = "") -> str:
    """Returns `url` with the password. If no source has a password, `url` is returned unchanged.

    Raises:
        ConfigError: the password file cannot be read or is empty.
    """
    if url_has_password(url):
        return url
    password = environment.get(VARIABLE) or ""
    file = environment.get(FILE_VARIABLE) or password_file
    if not password and file:
        setting = FILE_VARIABLE if environment.get(FILE_VARIABLE) else "[redis] password_file"
        password = _read(Path(file).expanduser(), setting)
    return with_password(url, password) if password else url


def with_password(url: str, password: str) -> str:
    """Returns `url` with `password` in its user information."""
    register_secret(password)
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))


def url_has_password(url: str) -> bool:
    """True if the URL contains a password."""
    parts = urlsplit(url)
    return ":" in parts.netloc.rpartition("@")[0] or "password" in parse_qs(parts.query)


def _read(path: Path, setting: str) -> str:
    try:
        password = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{setting}: {path} cannot be read: {reason}") from error
    if not password:
        raise ConfigError(f"{setting}: {path} is empty; write the password of Redis into it")
    return password
