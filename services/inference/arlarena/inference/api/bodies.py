"""Reads JSON bodies. Error messages name the cause, the field and the fix."""

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

_SHOWN = 40  # maximum number of characters of a value in an error message
_GZIP = b"\x1f\x8b"
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_DIGITS = 308  # the largest float has 309 digits, so every integer of 308 digits can be converted to a float
# Maximum total number of the characters "[", "{" and ":" in a body. Decoding takes about 2 µs for each of them.
_MAX_MARKS = 200_000
# If an invalid body is larger than this, the error message does not name the invalid field. Finding the field takes 20
# times as long as decoding the body.
_MAX_EXPLAINED_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class _BadNumber:
    """An invalid number in the decoded body. `problem`: the reason why the number is invalid."""

    problem: str


def read_json(body: bytes) -> Any:
    """Decode a JSON body.

    Raises:
        RequestError: status 400 if the body is not UTF-8, is not JSON or is nested too deeply. Status 400 if it
            contains NaN, a number out of range, or half of a surrogate pair. Status 413 if it contains more than
            `_MAX_MARKS` of the characters `[`, `{` and `:`, including those inside strings.
    """
    if len(body) > _MAX_MARKS and sum(map(body.count, (b"[", b"{", b":"))) > _MAX_MARKS:
        raise RequestError(
            f"the body has more than {_MAX_MARKS} opening brackets, opening braces and colons in total: send several "
            "smaller requests",
            status=413,
        )
    try:
        return msgspec.json.decode(body)
    except RecursionError as error:
        raise RequestError("the body is nested too deeply", code="invalid_json") from error
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise _json_error(body, str(error)) from error


def _json_error(body: bytes, fallback: str) -> RequestError:
    """Returns an error that describes the problem of an invalid body. `fallback`: the decoder's message. The error
    contains the decoder's message if this function finds no better description.
    """
    if problem := _encoding_problem(body):
        return RequestError(f"the body {problem}", code="invalid_json")
    if len(body) > _MAX_EXPLAINED_BYTES:
        return RequestError(f"the body is not valid JSON: {fallback}", code="invalid_json")
    try:
        hooks: dict[str, Any] = {
            "parse_constant": _parse_constant,
            "parse_float": _parse_float,
            "parse_int": _parse_int,
        }
        for path, problem in _problems(json.loads(body, **hooks)):
            return RequestError(f"{path or 'the body'} {problem}", param=param_of(path), code="invalid_json")
    except RecursionError:
        return RequestError("the body is nested too deeply", code="invalid_json")
    except json.JSONDecodeError as error:
        fallback = str(error)
    return RequestError(f"the body is not valid JSON: {fallback}", code="invalid_json")


def param_of(path: str) -> str | None:
    """Returns the `param` of an error about the field at `path`. It is `path` without the prefix `sampling_params.`, so
    a sampling parameter has the same name in the errors of all routes. Returns None if `path` is empty.
    """
    return path.removeprefix("sampling_params.") or None


def _encoding_problem(body: bytes) -> str:
    """Returns a description of the problem if the body is empty, compressed or not UTF-8. Otherwise returns ""."""
    if not body.strip():
        return "is empty: send a JSON object"
    if body.startswith(_GZIP):
        return "is compressed with gzip: send it uncompressed"
    if body.startswith(codecs.BOM_UTF8):
        return "begins with a byte-order mark (bytes EF BB BF): send UTF-8 without this mark"
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 0 in body[:4]:
        return "is UTF-16 or UTF-32, not UTF-8: encode it as UTF-8"
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8: byte 0x{body[error.start]:02x} at offset {error.start}; encode it as UTF-8"
    return ""


def _parse_constant(name: str) -> _BadNumber:
    return _BadNumber(f"is {name}, which is not valid in JSON: send a finite number, or leave the field out")


def _parse_float(text: str) -> float | _BadNumber:
    value = float(text)
    return (
        value
        if math.isfinite(value)
        else _BadNumber(f"is {_short(text)}, outside the range of floats: send a number closer to 0")
    )


def _parse_int(text: str) -> int | _BadNumber:
    digits = len(text.removeprefix("-"))
    if digits > _MAX_DIGITS:
        return _BadNumber(f"is an integer of {digits} digits, which no field accepts: send a smaller number")
    return int(text)


def _problems(value: Any) -> Iterator[tuple[str, str]]:
    """Yields (path of the field, problem) for each invalid field, in the order of the document."""
    stack = [("", value)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, _BadNumber):
            yield path, node.problem
        elif isinstance(node, str) and (surrogate := _SURROGATE.search(node)):
            yield path, f"contains \\u{ord(surrogate[0]):04x}, one half of a surrogate pair: send complete characters"
        elif isinstance(node, list):
            stack += [(f"{path}[{i}]", item) for i, item in reversed(list(enumerate(node)))]
        elif isinstance(node, dict):
            if any(_SURROGATE.search(name) for name in node):
                yield path, "has a field whose name contains one half of a surrogate pair: send complete characters"
            stack += [(f"{path}.{name}".lstrip("."), item) for name, item in reversed(node.items())]


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
