"""Checks requests, and converts the values of a vendor's reply to safe values for records.

The SDKs do not check the types of the values in a reply.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from arlarena.rollout.evaluation.models.connection import ApiConnection
from arlarena.rollout.evaluation.models.errors import Denied, Rejected
from arlarena.rollout.evaluation.models.protocol import ModelMessage, PictureBytes, SamplingRequest

_MAX_NAME = 200  # characters of a model's name or a request's id in records
_MAX_TOKENS = 1 << 53  # all JSON readers represent smaller integers exactly


def clean_text(value: object) -> str:
    """Returns a string that UTF-8 can encode, or "" if `value` is not a string.

    JSON may contain half of a surrogate pair. UTF-8 cannot encode it, so a question mark replaces it.
    """
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def clean_name(value: object) -> str:
    """Returns the first `_MAX_NAME` characters of a name or an id, or "" if `value` is not a string."""
    return clean_text(value)[:_MAX_NAME]


def token_count(value: object) -> int | None:
    """Returns `value` if it is a valid number of tokens, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS else None


def token_sum(values: Iterable[int | None]) -> int | None:
    """Returns the sum of the numbers that are not None, or None if all numbers are None."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def base64_text(picture: PictureBytes) -> str:
    """Returns an image's bytes in base64."""
    return base64.b64encode(picture.data).decode()


def checked(
    connection: ApiConnection, messages: Sequence[ModelMessage], sampling: SamplingRequest, reserved: frozenset[str]
) -> Mapping[str, Any]:
    """Checks a request before it is sent, and returns `sampling.extra`.

    `reserved`: parameters that `extra` must not contain.

    Raises:
        Denied: `extra` contains a reserved parameter.
        Rejected: the last message is not the user's, or the messages have images and images may not be sent.
    """
    if clash := sorted(reserved & sampling.extra.keys()):
        raise Denied(connection.message(f"the parameter {clash[0]!r} cannot be set: the evaluation sets it"))
    if not messages or messages[-1].role != "user":
        raise Rejected(connection.message("the conversation does not end with a message of the user"))
    if not connection.sees_images and any(message.images for message in messages):
        raise Rejected(connection.message("the messages have images, but no images may be sent to this model"))
    return sampling.extra


def split_system(messages: Sequence[ModelMessage]) -> tuple[str, Sequence[ModelMessage]]:
    """Returns (text, others): the text of the system messages at the start, and the messages after them."""
    count = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    return "\n\n".join(message.text for message in messages[:count]), messages[count:]


def without_blank_replies(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    """Returns the messages without the assistant's blank messages, because Anthropic and Google reject blank messages.

    A model may give a blank reply during an episode. Without this reply, two messages of the user follow each other.
    """
    return [message for message in messages if message.role != "assistant" or message.text.strip()]
