"""The interface of a model. A model takes a conversation and returns a reply with its token usage.

The errors of a model are in `errors.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

Role = Literal["system", "user", "assistant"]
# Why a reply ended. `refusal`: the vendor's filter or the model refused. `tool_calls`: the model called a tool,
# although the request offers no tools. `other`: a reason that the adapter does not know.
Finish = Literal["stop", "length", "refusal", "tool_calls", "other"]


class PictureBytes(msgspec.Struct, frozen=True):
    """An image for the model. `data`: the bytes of a PNG or JPEG file."""

    media_type: Literal["image/png", "image/jpeg"]
    data: bytes


class ModelMessage(msgspec.Struct, frozen=True):
    """A message of a conversation. The images are sent before the text."""

    role: Role
    text: str
    images: tuple[PictureBytes, ...] = ()


class SamplingRequest(msgspec.Struct, frozen=True):
    """Sampling parameters. If a parameter is None, it is not sent, so the vendor's default applies.

    Attributes:
        max_tokens: maximum number of tokens in a reply.
        stop: stop strings.
        extra: additional parameters of the vendor's API by name, such as a reasoning effort. They are sent unchanged.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    extra: Mapping[str, Any] = {}


class TokenUsage(msgspec.Struct, frozen=True):
    """Numbers of tokens of one or more requests, as the vendor reports them. None: the number is unknown.

    Attributes:
        input: tokens of the messages, including cached tokens.
        output: generated tokens, including reasoning.
        reasoning: reasoning tokens. They are part of `output`.
        cached: tokens that were read from a cache. They are part of `input`.
    """

    input: int | None = None
    output: int | None = None
    reasoning: int | None = None
    cached: int | None = None

    def __add__(self, other: TokenUsage) -> TokenUsage:
        """Return the sums of the four numbers. A sum is None if one of its two numbers is None."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__struct_fields__)
        return TokenUsage(*(None if one is None or two is None else one + two for one, two in pairs))


NO_TOKENS = TokenUsage(0, 0, 0, 0)  # start value of sums


class Reply(msgspec.Struct, frozen=True):
    """A model's reply to one request.

    Attributes:
        text: the visible text; "" if there is none.
        finish: why the reply ended.
        usage: the token usage of this request.
        model: the model's name in the vendor's response, for example a dated snapshot.
        request_id: the vendor's id of the request, for questions to the vendor's support; "" if unknown.
        reasoning: the reasoning text, or "" if the vendor does not return it. It is recorded, but the environment does
            not get it.
    """

    text: str
    finish: Finish = "stop"
    usage: TokenUsage = TokenUsage()
    model: str = ""
    request_id: str = ""
    reasoning: str = ""


class ChatModel(Protocol):
    """A model behind an API. Many requests may run at the same time, all on one event loop.

    Attributes:
        name: name of the model in records and reports, for example "openai/gpt-5".
        sees_images: whether images may be sent to the model.
    """

    name: str
    sees_images: bool

    async def reply(self, messages: Sequence[ModelMessage], sampling: SamplingRequest, *, seed: int) -> Reply:
        """Send one request without retries, and return the reply.

        Args:
            messages: the conversation. The last message must be the user's.
            sampling: the sampling parameters.
            seed: a 63-bit number. It is sent if the API has a seed. If the API allows fewer bits, only the low bits are
                sent.

        Raises:
            Retryable: the request failed, but the same request may succeed later.
            Rejected: the request failed, and the same request would fail again.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
