"""What can go wrong between a client and a service, by what the caller should do about it.

Unavailable      the service is down, slow or failing: the same request may work later
├─ Full          no room for more sessions; `retry_after_s` says when to ask again
└─ SessionLost   the session is gone (server restarted, lease expired): begin again with a new one
Refused          the request is wrong and will be wrong again
├─ PromptTooLong the prompt does not fit the model's context
└─ PolicyFault   the environment blames the policy's reply
ProtocolError    the answer is not what the contract says
"""

from __future__ import annotations


class ServiceError(RuntimeError):
    """Base of all of them. The message names the address and what was asked."""


class Unavailable(ServiceError):
    """Connection refused or lost, time-out, or an answer of 5xx or 429: an infrastructure failure."""

    @property
    def answered(self) -> bool:
        """Whether the server answered, with an error. Without an answer, the error of the connection is the cause."""
        return self.__cause__ is None


class AtCapacity(Unavailable):
    """The server has no room; ask again after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SessionLost(Unavailable):
    """The environment server does not know the session (any longer)."""


class Refused(ServiceError):
    """The service understood and said no; `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class PromptTooLong(Refused):
    """The prompt leaves no room for a response in the model's context."""


class PolicyFault(Refused):
    """The environment cannot go on because of what the policy said; `code` names the fault."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message, status)
        self.code = code


class ProtocolError(ServiceError):
    """An answer that cannot be read, or that contradicts itself."""
