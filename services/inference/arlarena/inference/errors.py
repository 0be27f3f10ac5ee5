"""Errors that a client caused or must know of, in OpenAI's form."""

from __future__ import annotations

import msgspec

from arlarena.proto.policy import ErrorInfo, ErrorResponse

# What programs tell errors apart by, where the error itself does not say more.
_CODES = {
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "request_too_large",
    500: "internal_error",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "deadline_exceeded",
}
CONTEXT_LENGTH = "context_length_exceeded"
RETRY_AFTER_S = "1"  # of every 503


class ClientGone(Exception):
    """The client closed its connection before the answer."""


class RequestError(Exception):
    """An answer other than 200. `param` names the field at fault, `code` the error where the status says too little."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code or _CODES.get(status)

    def body(self) -> bytes:
        """The JSON that the client reads."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return msgspec.json.encode(ErrorResponse(ErrorInfo(self.message, kind, self.param, self.code)))
