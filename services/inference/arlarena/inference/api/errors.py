"""Errors that a client caused or must know of, in OpenAI's form."""

from __future__ import annotations

import msgspec

from arlarena.proto.policy import ErrorInfo, ErrorResponse

# What programs tell errors apart by, where the error itself does not say more.
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
_MOST_MESSAGE, _MOST_PARAM = 1500, 200  # characters: both may quote a request
CONTEXT_LENGTH = "context_length_exceeded"

# `Retry-After` of a 503, in seconds: of a server that is busy, and of model routes while the model loads. OpenAI's SDK
# tries twice more and obeys values up to 60, so that two waits have to be longer than the loading.
BUSY_RETRY_S = 1
LOADING_RETRY_S = 30


class ClientGone(Exception):
    """The client closed its connection before the answer."""


class RequestError(Exception):
    """An answer other than 200. `param` names the field at fault, `code` the error where the status says too little.
    `retry_after_s` is sent with status 503.
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
        self.message = message if len(message) <= _MOST_MESSAGE else message[:_MOST_MESSAGE] + "…"
        self.status = status
        self.param = None if param is None else param[:_MOST_PARAM]
        self.code = code or _CODES.get(status)
        self.retry_after_s = retry_after_s

    def headers(self) -> dict[str, str]:
        """Headers that belong to the status."""
        if self.status == 503:
            return {"retry-after": str(self.retry_after_s)}
        return {"www-authenticate": "Bearer"} if self.status == 401 else {}

    def body(self) -> bytes:
        """The JSON that the client reads."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return msgspec.json.encode(ErrorResponse(ErrorInfo(self.message, kind, self.param, self.code)))
