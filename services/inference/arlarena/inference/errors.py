"""Errors that a client caused or must know of, in OpenAI's form."""

from __future__ import annotations

import msgspec

from arlarena.proto.policy import ErrorInfo, ErrorResponse

_KINDS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    502: "BadGatewayError",
    503: "ServiceUnavailableError",
    504: "DeadlineExceededError",
}


class ClientGone(Exception):
    """The client closed its connection before the answer."""


class RequestError(Exception):
    """An answer other than 200. `param` names the field at fault."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param

    def body(self) -> bytes:
        """The JSON that the client reads."""
        kind = _KINDS.get(self.status, "InternalServerError")
        return msgspec.json.encode(ErrorResponse(ErrorInfo(self.message, kind, self.status, self.param)))
