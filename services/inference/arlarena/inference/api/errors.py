"""Errors that clients receive, in OpenAI's format."""

from __future__ import annotations

import msgspec

from arlarena.proto.policy import ErrorInfo, ErrorResponse

# The default `code` of an error body, by HTTP status.
_CODES = {
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "request_too_large",
    415: "unsupported_content_encoding",
    500: "internal_error",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "deadline_exceeded",
}
_MAX_MESSAGE, _MAX_PARAM = 1500, 200  # maximum numbers of characters; both texts can contain parts of a long request
CONTEXT_LENGTH = "context_length_exceeded"

# Seconds in the header `Retry-After` of a response with status 503: BUSY_RETRY_S if the server is busy, LOADING_RETRY_S
# while the model loads. OpenAI's SDK retries a request twice and obeys values up to 60. So the SDK waits for
# 2 * LOADING_RETRY_S seconds in total. Most models should load in this time.
BUSY_RETRY_S = 1
LOADING_RETRY_S = 30


class ClientGone(Exception):
    """The client closed the connection before the response was complete."""


class RequestError(Exception):
    """An error that is sent as a response. `param`: the name of the invalid field. `code`: the error code in the body;
    the default is the code of `status` in `_CODES`. `retry_after_s`: seconds in the header `Retry-After`. Only a
    response with status 503 has this header.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int = BUSY_RETRY_S,
    ) -> None:
        super().__init__(message)
        self.message = message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "…"
        self.status = status
        self.param = None if param is None else param[:_MAX_PARAM]
        self.code = code or _CODES.get(status)
        self.retry_after_s = retry_after_s

    def headers(self) -> dict[str, str]:
        """Returns the headers that a response with this status must have."""
        if self.status == 503:
            return {"retry-after": str(self.retry_after_s)}
        return {"www-authenticate": "Bearer"} if self.status == 401 else {}

    def body(self) -> bytes:
        """Returns the error as a JSON body."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return msgspec.json.encode(ErrorResponse(ErrorInfo(self.message, kind, self.param, self.code)))
