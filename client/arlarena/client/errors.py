"""The errors of the clients. The class of an error shows how the caller should react.

Unavailable      the service is unreachable, too slow, or has failed: retry later
├─ AtCapacity    the server is full: retry after `retry_after_s`
└─ SessionLost   the session has ended (server restart, or idle for too long): open another session
Refused          the request is invalid: a retry would fail again
├─ PromptTooLong the prompt does not fit the model's context
└─ PolicyFault   the policy's reply caused the error
ProtocolError    the response violates the API
"""

from __future__ import annotations


class ServiceError(RuntimeError):
    """Base class of the errors in this module. The message contains the service's address and the request."""


class Unavailable(ServiceError):
    """An infrastructure failure: a refused or lost connection, a timeout, or a response with status 5xx, 408 or 429.

    `status`: the HTTP status of the response. It is None if there was no response, or if the status is unknown.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def answered(self) -> bool:
        """True if the server responded with an error. False if no response arrived; `__cause__` then has the reason."""
        return self.__cause__ is None


class AtCapacity(Unavailable):
    """The server is full. Retry after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SessionLost(Unavailable):
    """The session has ended, or the environment server does not know it."""


class Refused(ServiceError):
    """The service rejected the request. A retry would fail again. `status`: the HTTP status of the response."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class PromptTooLong(Refused):
    """The prompt leaves no room for a response in the model's context."""


class PolicyFault(Refused):
    """The policy's reply caused an error in the environment. `code`: the server's error code."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message, status)
        self.code = code


class ProtocolError(ServiceError):
    """The response cannot be decoded, or its fields contradict each other."""
