"""JSON in and out, by msgspec: one decoder per request type, one encoder for all replies."""

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

# Most values of one request's JSON, containers included: an item of a batch has about ten, and a batch 4096 items. An
# empty object of three bytes may become a structure of a hundred.
MOST_VALUES = 1 << 16
_MARK = re.compile(rb'[^"\[{,]*+(?:[\[{,]|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|\Z)', re.DOTALL)

_encoder = msgspec.json.Encoder()


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode(body: bytes, kind: type[T]) -> T:
    """`body` as `kind`, its values counted first. Errors as in `check_values` and `parse`."""
    check_values(body)
    return parse(body, kind)


def parse(body: bytes, kind: type[T]) -> T:
    """`body` as `kind`; an empty body counts as `{}`. The caller must have called `check_values`.

    Raises:
        ApiError: 422: `invalid_request`, naming the field, or `invalid_json`.
    """
    try:
        decoder: msgspec.json.Decoder[T] = _decoder(cast(Hashable, kind))
        return decoder.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(body, error, kind) from error


def check_values(body: bytes) -> None:
    """Check the number of values of a JSON text without decoding it. Punctuation in strings is not counted.

    Raises:
        ApiError: 413: there are more than `MOST_VALUES`.
    """
    if len(body) <= MOST_VALUES or sum(map(body.count, (b",", b"[", b"{"))) <= MOST_VALUES:
        return
    if next(islice(_MARK.finditer(body), 3 * MOST_VALUES, None), None) is not None:
        raise ApiError(413, "too_large", f"the body has more than {MOST_VALUES} values")


def _unreadable(body: bytes, error: Exception, kind: Any) -> ApiError:
    """The error for an invalid body. Invalid UTF-8 is reported first, with its offset in the body."""
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
    """`value` as JSON."""
    return _encoder.encode(value)


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An HTTP reply with `value` as JSON."""
    return Response(_encoder.encode(value), status, headers, "application/json")


def error_reply(error: ApiError) -> Response:
    """An HTTP reply for an error."""
    headers = None if error.retry_after_s is None else {"Retry-After": str(max(1, round(error.retry_after_s)))}
    return reply(error.reply(), error.status, headers)


async def read_body(request: Request, limit: int) -> bytes:
    """Read the complete body.

    Raises:
        ApiError: 413, before more than `limit` bytes have been kept; 422 for a compressed one.
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
