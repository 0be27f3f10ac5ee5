"""Decodes and encodes JSON with msgspec. Each request type has its own decoder. All replies use one encoder."""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import cache
from itertools import islice
from typing import Any, TypeVar, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from arlarena.env_server.api.explanations import explain
from arlarena.env_server.errors import ApiError, invalid

T = TypeVar("T")

# Maximum number of values in the JSON of one request, including lists and objects. A batch of 4096 items has about ten
# values per item. The limit bounds memory: three bytes of JSON can become a decoded object of a hundred bytes.
MAX_VALUES = 1 << 16
# Each match ends at a comma or an opening bracket outside strings, or at the end of a string.
_PIECE = re.compile(rb'[^"\[{,]*+(?:[\[{,]|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|\Z)', re.DOTALL)

_encoder = msgspec.json.Encoder()


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode(body: bytes, kind: type[T]) -> T:
    """Check the number of values in `body`, then decode it as `kind`.

    Raises the errors of `check_values` and `parse`.
    """
    check_values(body)
    return parse(body, kind)


def parse(body: bytes, kind: type[T]) -> T:
    """Decode `body` as `kind`. An empty body counts as `{}`. The caller must have called `check_values`.

    Raises:
        ApiError: 422 `invalid_request` with the name of the invalid field, or 422 `invalid_json`.
    """
    try:
        decoder: msgspec.json.Decoder[T] = _decoder(cast(Hashable, kind))
        return decoder.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _decode_error(body, error, kind) from error


def check_values(body: bytes) -> None:
    """Check the number of values in a JSON text without decoding the text. The check counts all strings, commas and
    opening brackets (not commas and brackets inside strings). Each value adds at most three to this count: its key, the
    value and a comma.

    Raises:
        ApiError: 413 if the count is above three times `MAX_VALUES`.
    """
    if len(body) <= MAX_VALUES or sum(map(body.count, (b",", b"[", b"{"))) <= MAX_VALUES:
        return
    if next(islice(_PIECE.finditer(body), 3 * MAX_VALUES, None), None) is not None:
        raise ApiError(413, "too_large", f"the body has more than {MAX_VALUES} values")


def _decode_error(body: bytes, error: Exception, kind: Any) -> ApiError:
    """Returns the error for an invalid body. If the body is not UTF-8, the error names the first invalid byte."""
    try:
        body.decode()
    except UnicodeDecodeError as undecodable:
        position = f"byte 0x{body[undecodable.start]:02x} at offset {undecodable.start}"
        return ApiError(422, "invalid_json", f"the body is not UTF-8: {position}")
    if isinstance(error, msgspec.ValidationError):
        return invalid(explain(error, kind))
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
    return ApiError(422, "invalid_json", f"the body is not valid JSON: {reason}")


def encode(value: Any) -> bytes:
    """Returns `value` as JSON."""
    return _encoder.encode(value)


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Returns an HTTP reply with `value` as JSON."""
    return Response(_encoder.encode(value), status, headers, "application/json")


def error_reply(error: ApiError) -> Response:
    """Returns the HTTP reply for an error."""
    headers = None if error.retry_after_s is None else {"Retry-After": str(max(1, round(error.retry_after_s)))}
    return reply(error.to_reply(), error.status, headers)


async def read_body(request: Request, limit: int) -> bytes:
    """Returns the complete body.

    Raises:
        ApiError: 413 as soon as the body exceeds `limit` bytes, 422 if the body is compressed.
    """
    if (coding := request.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        raise invalid(f"the body is encoded with {coding!r} (Content-Encoding): send it as plain JSON")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise ApiError(413, "too_large", f"the body is larger than {limit} bytes ([environment] max_body_bytes)")
        parts.append(part)
    return b"".join(parts)
