"""What the evaluation needs of a model: messages in, a reply with its usage out, and errors by what the caller does.

ModelError
├─ Retryable    the same request may succeed later: rate limit, overload, timeout, lost connection
└─ Rejected     the same request fails again: wrong key, unknown model, invalid parameter
   ├─ TooLong   the messages do not fit the model's context
   └─ Denied    all requests of this evaluation will fail (no access, no credit): stop the evaluation
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

Role = Literal["system", "user", "assistant"]
# Why a reply ended. `refusal`: the vendor's filter or the model declined. `tool_calls`: the model called a tool,
# although the request offers none. `other`: a reason that the vendor's API may add.
Finish = Literal["stop", "length", "refusal", "tool_calls", "other"]


class PictureBytes(msgspec.Struct, frozen=True):
    """An image for a model that sees: PNG or JPEG bytes."""

    media_type: Literal["image/png", "image/jpeg"]
    data: bytes


class ModelMessage(msgspec.Struct, frozen=True):
    """A message of a conversation. Images come before the text."""

    role: Role
    text: str
    images: tuple[PictureBytes, ...] = ()


class SamplingRequest(msgspec.Struct, frozen=True):
    """Sampling parameters. None: the parameter is not sent, so the vendor's default applies.

    `extra`: further parameters of the vendor's API by name, such as a reasoning effort. They are sent as they are.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    extra: Mapping[str, Any] = {}


class TokenUsage(msgspec.Struct, frozen=True):
    """Tokens of one or more requests, as the vendor counts them. None: the vendor does not report this number.

    Attributes:
        input: all tokens of the messages, with cached ones.
        output: all generated tokens, with reasoning.
        reasoning: the part of `output` that was reasoning.
        cached: the part of `input` that was read from a cache.
    """

    input: int | None = None
    output: int | None = None
    reasoning: int | None = None
    cached: int | None = None

    def __add__(self, other: TokenUsage) -> TokenUsage:
        """Return the sums. A sum is None if both numbers are None; a single None counts as 0."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__struct_fields__)
        return TokenUsage(*(None if one is None and two is None else (one or 0) + (two or 0) for one, two in pairs))


class Reply(msgspec.Struct, frozen=True):
    """A model's reply to one request.

    Attributes:
        text: the visible text; "" if there is none.
        finish: why the reply ended.
        usage: the tokens of this request.
        model: the model that the vendor names in the response, for example a dated snapshot.
        request_id: the vendor's id of the request, for its support; "" if unknown.
        reasoning: the text of the reasoning, if the vendor returns it. It is recorded, and not sent to an environment.
    """

    text: str
    finish: Finish = "stop"
    usage: TokenUsage = TokenUsage()
    model: str = ""
    request_id: str = ""
    reasoning: str = ""


class ModelError(RuntimeError):
    """Base of the errors of a model. The message names the model, the address and the vendor's reason, without keys."""


class Retryable(ModelError):
    """The same request may succeed later.

    Attributes:
        retry_after_s: the wait in seconds that the server asked for (`Retry-After`), or None.
        possibly_charged: whether the request may have been charged: True unless the server certainly did not run it.
        rate_limited: whether the vendor limits the rate of requests (429). All requests then wait, not only this one.
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
    """The same request fails again."""


class TooLong(Rejected):
    """The messages do not fit the model's context."""


class Denied(Rejected):
    """All requests of this evaluation will fail: no access, unknown model, or no credit."""


class ChatModel(Protocol):
    """A model behind an API. Used by one event loop; many requests at a time.

    Attributes:
        name: the name for records and reports, for example "openai/gpt-5".
        sees_images: whether images may be sent.
    """

    name: str
    sees_images: bool

    async def reply(self, messages: Sequence[ModelMessage], sampling: SamplingRequest, *, seed: int) -> Reply:
        """Return the reply to a conversation, which ends with a message of the user. One request, without retries.

        `seed`: 63 bits; sent if the API has a seed, shortened to the bits that the API allows.

        Raises:
            Retryable: the caller waits and tries again.
            Rejected: the caller must not try again.
        """
        ...

    async def close(self) -> None:
        """Close connections."""
        ...
