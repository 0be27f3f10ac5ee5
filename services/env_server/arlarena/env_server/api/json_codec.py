"""Decodes and encodes JSON with msgspec. Each request type has a decoder. All replies have one encoder."""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import cache
from itertools import islice
from typing import Any, TypeVar, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from arlarena.env_server.api.explanations import explained
from arlarena.env_server.errors import ApiError, invalid

T = TypeVar("T")

# The largest number of values in one request's JSON, including lists and objects. A batch of 4096 items has about ten
# values per item. The limit bounds memory, because an object of three bytes may need a hundred bytes when decoded.
MOST_VALUES = 1 << 16
_MARK = re.compile(rb'[^"\[{,]*+(?:[\[{,]|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|\Z)', re.DOTALL)

_encoder = msgspec.json.Encoder()


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode(body: bytes, kind: type[T]) -> T:
    """Check the number of values in `body`, then decode `body` as `kind`. Errors as in `check_values` and `parse`."""
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
        raise _unreadable(body, error, kind) from error


def check_values(body: bytes) -> None:
    """Check the number of values in a JSON text without decoding the text. Punctuation in strings is not counted.

    Raises:
        ApiError: 413, the text has more than `MOST_VALUES` values.
    """
    if len(body) <= MOST_VALUES or sum(map(body.count, (b",", b"[", b"{"))) <= MOST_VALUES:
        return
    if next(islice(_MARK.finditer(body), 3 * MOST_VALUES, None), None) is not None:
        raise ApiError(413, "too_large", f"the body has more than {MOST_VALUES} values")


def _unreadable(body: bytes, error: Exception, kind: Any) -> ApiError:
    """Returns the error for an invalid body. Invalid UTF-8 is reported first, with its offset in the body."""
    try:
        body.decode()
    except UnicodeDecodeError as undecodable:
        place = f"byte 0x{body[undecodable.start]:02x} at offset {undecodable.start}"
        return ApiError(422, "invalid_json", f"the body is not UTF-8: {place}")
    if isinstance(error, msgspec.ValidationError):
        return invalid(explained(error, kind))
    why = "it is nested too deeply" if isinstance(error, RecursionError) else error
    return ApiError(422, "invalid_json", f"the body is not valid JSON: {why}")


def encode(value: Any) -> bytes:
    """Returns `value` as JSON."""
    return _encoder.encode(value)


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Returns an HTTP reply with `value` as JSON."""
    return Response(_encoder.encode(value), status, headers, "application/json")


def error_reply(error: ApiError) -> Response:
    """Returns the HTTP reply for an error."""
    headers = None if error.retry_after_s is None else {"Retry-After": str(max(1, round(error.retry_after_s)))}
    return reply(error.reply(), error.status, headers)


async def read_body(request: Request, limit: int) -> bytes:
    """Read the complete body.

    Raises:
        ApiError: 413 as soon as the body exceeds `limit` bytes, 422 for a compressed body.
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
