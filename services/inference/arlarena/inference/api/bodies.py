"""Reads JSON bodies. An error message contains the cause, the field and the fix."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from arlarena.inference.api.errors import RequestError

_SHOWN = 40  # most characters of a value in an error message
_GZIP = b"\x1f\x8b"
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_DIGITS = 308  # digits of the largest integer that a float can hold
_MAX_MARKS = 200_000  # most characters "[", "{" and ":" in a body; each costs about 2 µs of decoding
_MAX_EXPLAINED_BYTES = 1 << 18  # a larger body gets a short error; finding the fault is 20 times as slow as decoding


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Takes the place of a number that cannot be represented. `why`: the reason."""

    why: str


def read_json(body: bytes) -> Any:
    """Decode a JSON body.

    Raises:
        RequestError: 400, the body is not UTF-8, not JSON, nested too deeply or contains a value that cannot be
            represented. 413, the body has too many lists, objects and fields.
    """
    if len(body) > _MAX_MARKS and sum(map(body.count, (b"[", b"{", b":"))) > _MAX_MARKS:
        raise RequestError(f"the body has more than {_MAX_MARKS} brackets, braces and colons", status=413)
    try:
        return msgspec.json.decode(body)
    except RecursionError as error:
        raise RequestError("the body is nested too deep", code="invalid_json") from error
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise _unreadable(body, str(error)) from error


def _unreadable(body: bytes, fallback: str) -> RequestError:
    if why := _not_utf8(body):
        return RequestError(f"the body {why}", code="invalid_json")
    if len(body) > _MAX_EXPLAINED_BYTES:
        return RequestError(f"the body is not valid JSON: {fallback}", code="invalid_json")
    try:
        hooks: dict[str, Any] = {"parse_constant": _constant, "parse_float": _float, "parse_int": _int}
        for path, why in _problems(json.loads(body, **hooks)):
            return RequestError(f"{path or 'the body'} {why}", param=param_of(path), code="invalid_json")
    except RecursionError:
        return RequestError("the body is nested too deep", code="invalid_json")
    except json.JSONDecodeError as error:
        fallback = str(error)
    return RequestError(f"the body is not valid JSON: {fallback}", code="invalid_json")


def param_of(path: str) -> str | None:
    """Returns a field's path for `param` of an error. The prefix `sampling_params.` is removed, so that a parameter has
    the same name on every route.
    """
    return path.removeprefix("sampling_params.") or None


def _not_utf8(body: bytes) -> str:
    """Returns why the body is not text in UTF-8, or "" without a problem."""
    if not body.strip():
        return "is empty: send a JSON object"
    if body.startswith(_GZIP):
        return "is compressed with gzip: send it uncompressed"
    if body.startswith(codecs.BOM_UTF8):
        return "begins with a byte-order mark (bytes EF BB BF): send UTF-8 without it"
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 0 in body[:4]:
        return "is UTF-16 or UTF-32, not UTF-8: encode it as UTF-8"
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8: byte 0x{body[error.start]:02x} at offset {error.start}; encode it as UTF-8"
    return ""


def _constant(name: str) -> _Unreadable:
    return _Unreadable(f"is {name}, which JSON cannot hold: send a finite number, or leave the field out")


def _float(text: str) -> float | _Unreadable:
    value = float(text)
    return value if math.isfinite(value) else _Unreadable(f"is {_short(text)}, beyond the largest float: lower it")


def _int(text: str) -> int | _Unreadable:
    digits = len(text.removeprefix("-"))
    if digits > _MAX_DIGITS:
        return _Unreadable(f"is an integer of {digits} digits, which no field takes: send a smaller number")
    return int(text)


def _problems(value: Any) -> Iterator[tuple[str, str]]:
    """Yields (path of the field, problem) in the order of the document."""
    stack = [("", value)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, _Unreadable):
            yield path, node.why
        elif isinstance(node, str) and (surrogate := _SURROGATE.search(node)):
            yield path, f"holds \\u{ord(surrogate[0]):04x}, one half of a surrogate pair: send whole characters"
        elif isinstance(node, list):
            stack += [(f"{path}[{i}]", item) for i, item in reversed(list(enumerate(node)))]
        elif isinstance(node, dict):
            if any(_SURROGATE.search(name) for name in node):
                yield path, "has a field whose name holds one half of a surrogate pair: send whole characters"
            stack += [(f"{path}.{name}".lstrip("."), item) for name, item in reversed(node.items())]


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
