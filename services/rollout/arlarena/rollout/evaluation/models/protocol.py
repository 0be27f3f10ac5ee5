"""The interface of a model: a conversation in, a reply with its token usage out. Errors: `errors.py`."""

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
        input: all tokens of the messages, including cached tokens.
        output: all generated tokens, including reasoning.
        reasoning: the part of `output` that was reasoning.
        cached: the part of `input` that was read from a cache.
    """

    input: int | None = None
    output: int | None = None
    reasoning: int | None = None
    cached: int | None = None

    def __add__(self, other: TokenUsage) -> TokenUsage:
        """Return the sums. A sum is None if one of its numbers is None."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__struct_fields__)
        return TokenUsage(*(None if one is None or two is None else one + two for one, two in pairs))


NO_TOKENS = TokenUsage(0, 0, 0, 0)  # start value of sums


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
