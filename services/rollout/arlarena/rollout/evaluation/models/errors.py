"""Errors of a model's API. Each class tells the caller how to react.

ModelError
├─ Retryable    the same request may succeed later: rate limit, overload, timeout, lost connection
└─ Rejected     the same request would fail again, for example because a parameter is invalid
   ├─ TooLong   the messages do not fit the model's context
   └─ Denied    all requests of the evaluation would fail, for example because the key is wrong: stop the evaluation
"""

from __future__ import annotations


class ModelError(RuntimeError):
    """Base class of a model's errors. The message names the model, the address and the reason. It contains no key."""


class Retryable(ModelError):
    """The same request may succeed later.

    Attributes:
        retry_after_s: the wait in seconds that the server requested (`Retry-After`), or None.
        possibly_charged: whether the vendor may have charged for the request. It is False only if the server certainly
            did not run the request.
        rate_limited: whether the vendor limits the rate of requests (status 429). If it is True, all requests wait.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        possibly_charged: bool = False,
        rate_limited: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after_s, self.possibly_charged, self.rate_limited = retry_after_s, possibly_charged, rate_limited


class Rejected(ModelError):
    """The same request would fail again."""


class TooLong(Rejected):
    """The messages do not fit the model's context."""


class Denied(Rejected):
    """All requests of the evaluation would fail: no access, no credit, an unknown model or a wrong parameter."""
