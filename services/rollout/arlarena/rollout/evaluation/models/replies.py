"""Converts values of a vendor's reply to safe values for records. The SDKs do not check the types of these values."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from arlarena.rollout.evaluation.models.connection import ApiConnection
from arlarena.rollout.evaluation.models.errors import Denied, Rejected
from arlarena.rollout.evaluation.models.protocol import ModelMessage, PictureBytes, SamplingRequest

_MAX_NAME = 200  # characters of a model's name or a request's id in records
_MAX_TOKENS = 1 << 53  # exact in JSON numbers of all readers


def clean_text(value: object) -> str:
    """Returns a text that UTF-8 can encode: JSON may contain half of a surrogate pair. Returns "" for other types."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def clean_name(value: object) -> str:
    """Returns the first `_MAX_NAME` characters of a name or an id; "" if `value` is no text."""
    return clean_text(value)[:_MAX_NAME]


def token_count(value: object) -> int | None:
    """Returns a number of tokens, or None if `value` is not such a number."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS else None


def token_sum(values: Iterable[int | None]) -> int | None:
    """Returns the sum of the known numbers, or None if no number is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def base64_text(picture: PictureBytes) -> str:
    """Returns an image in base64."""
    return base64.b64encode(picture.data).decode()


def checked(
    connection: ApiConnection, messages: Sequence[ModelMessage], sampling: SamplingRequest, reserved: frozenset[str]
) -> Mapping[str, Any]:
    """Returns `sampling.extra`, after the checks that are possible before a request.

    `reserved`: parameters that `extra` must not contain.

    Raises:
        Denied: `extra` contains a reserved parameter.
        Rejected: the conversation does not end with a message of the user, or has images that the model does not see.
    """
    if clash := sorted(reserved & sampling.extra.keys()):
        raise Denied(connection.message(f"the parameter {clash[0]!r} cannot be set: the evaluation sets it"))
    if not messages or messages[-1].role != "user":
        raise Rejected(connection.message("the conversation does not end with a message of the user"))
    if not connection.sees_images and any(message.images for message in messages):
        raise Rejected(connection.message("the messages have images, and this model is used without images"))
    return sampling.extra


def split_system(messages: Sequence[ModelMessage]) -> tuple[str, Sequence[ModelMessage]]:
    """Returns the text of the system messages at the start, and the other messages."""
    count = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    return "\n\n".join(message.text for message in messages[:count]), messages[count:]


def without_blank_replies(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    """Returns the messages without blank ones of the assistant, which Anthropic and Google reject.

    An empty reply is a possible event of an episode. The user's messages around it are sent one after the other.
    """
    return [message for message in messages if message.role != "assistant" or message.text.strip()]
