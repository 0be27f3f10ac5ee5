"""Detects secrets in settings, messages and logs, and masks them.

    register_secret(token)                  # from now on, `redact` masks `token`
    redact(f"GET {url}: {error}")           # masks tokens, and passwords in URLs, as ***

The functions treat a value as a secret in three cases:
- its setting or its command-line option has a name such as `token`, `password` or `api_key`;
- it contains a URL with credentials, or HTTP credentials such as `Bearer …`;
- it was passed to `register_secret`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, cast
from urllib.parse import quote, unquote

MASK = "***"
# Shorter secrets are not masked, because their text also occurs in ordinary messages.
_SHORTEST_HIDDEN = 6
_WORDS = frozenset(
    ("token", "tokens", "secret", "secrets", "password", "passwords", "passwd", "passphrase", "credential",
     "credentials", "authorization", "auth", "apikey", "apikeys", "bearer", "cookie")
)  # fmt: skip
_KEYS = frozenset(("api", "access", "private", "secret", "signing", "encryption", "admin", "account"))
_SPLIT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
_OPTION = re.compile(r"--?(?P<name>[A-Za-z][\w.-]*)(?:=|$)")

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
# A number of up to 5 digits is a port if one of these follows: /, ?, #, white space or the end of the text. All other
# text between the colon and the last @ is a password, even if it has special characters without percent-encoding.
_URL_PASSWORD = re.compile(rf"({_SCHEME}[^/\s:@'\"]*):(?!\d{{1,5}}(?:[/?#\s]|$))[^\s'\"]*@")
_WEB_USER = re.compile(r"(https?://)[^/\s@'\"]+@", re.IGNORECASE)
_QUERY = re.compile(
    r"([?&](?:[\w-]*(?:token|password|secret|api[_-]?key|access[_-]?key|signature)|auth|key)=)[^&#\s'\"]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(Bearer|Basic)(\s+)[A-Za-z0-9._~+/-]{6,}=*")
_FORMS = (
    (_URL_PASSWORD, rf"\1:{MASK}@"),
    (_WEB_USER, rf"\1{MASK}@"),
    (_QUERY, rf"\1{MASK}"),
    (_BEARER, rf"\1\2{MASK}"),
)

_hidden: set[str] = set()


def register_secret(secret: str | None) -> None:
    """Make `redact` mask `secret`, also in percent-encoded or escaped form. Ignores None and very short texts."""
    if secret is None or len(secret) < _SHORTEST_HIDDEN or secret in _hidden:
        return
    _hidden.update({secret, quote(secret, safe=""), unquote(secret), repr(secret)[1:-1]})


def redact(text: str) -> str:
    """Returns `text` with `***` in place of registered secrets, credentials in URLs, and HTTP credentials."""
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, MASK)
    if "://" in text or "=" in text or "earer" in text or "asic" in text:
        for form, replacement in _FORMS:
            text = form.sub(replacement, text)
    return text


def is_secret_name(name: str) -> bool:
    """True if `name` is a usual name of a secret, such as `admin_token`, `HF_TOKEN` or `apiKey`."""
    words = [word.lower() for word in _SPLIT.split(name) if word]
    if not words:
        return False
    return words[-1] in _WORDS or (words[-1].rstrip("s") == "key" and len(words) > 1 and words[-2] in _KEYS)


def is_secret(name: str, value: object) -> bool:
    """True if the setting `name = value` contains a secret. A number is never a secret, for example in `token = 64`."""
    if isinstance(value, str):
        return bool(value) and (is_secret_name(name) or redact(value) != value)
    if isinstance(value, Mapping):
        return any(is_secret(str(key), item) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return any(is_secret(name, item) or _is_secret_option(item) for item in value)
    return False


def _is_secret_option(item: object) -> bool:
    """True if `item` is a command-line option for a secret: `--api-key`, `--api-key=…` and similar names."""
    option = _OPTION.match(item) if isinstance(item, str) else None
    return option is not None and is_secret_name(option["name"])


def _masked_list(items: Sequence[Any], name: str) -> list[Any]:
    """Returns `items` with masked secrets, including the values of command-line options such as `--api-key`.

    `name`: name of the field that contains `items`.
    """
    result: list[Any] = []
    next_is_secret = False
    for item in items:
        option, equals, _ = item.partition("=") if _is_secret_option(item) else ("", "", "")
        shown = f"{option}{equals}{MASK if equals else ''}"
        result.append(shown if option else MASK if next_is_secret else masked(item, name))
        next_is_secret = bool(option) and not equals
    return result


def masked(value: Any, name: str = "") -> Any:
    """Returns the JSON value `value` with masked secrets. `name`: name of the field that contains `value`."""
    if isinstance(value, Mapping):
        return {key: masked(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return _masked_list(value, name)
    if isinstance(value, str):
        return MASK if value and is_secret_name(name) else redact(value)
    return value


def split_secrets(table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a settings table. Returns (table of public values, table of secrets). `merged` combines the two tables."""
    public: dict[str, Any] = {}
    secret: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            public[key], inner = split_secrets(value)
            secret |= {key: inner} if inner else {}
        else:
            (secret if is_secret(key, value) else public)[key] = value
    return public, secret


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a new table with the keys of both tables, also in nested tables. Values of `second` take precedence."""
    result = dict(first)
    for key, value in second.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result


class _RedactingStream:
    """A text stream that masks secrets and then writes to another stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def redacted_stderr() -> Iterator[None]:
    """Inside the `with` block, mask secrets in all text that Python writes to stderr, such as logs and stack traces."""
    import sys

    before = sys.stderr
    wrapped = before if isinstance(before, _RedactingStream) else cast(TextIO, _RedactingStream(before))
    sys.stderr = wrapped
    try:
        yield
    finally:
        if sys.stderr is wrapped:
            sys.stderr = before
