"""Checks the messages of a conversation before they are rendered. Error messages name the invalid field."""

from __future__ import annotations

from typing import Any

from arlarena.inference.api.errors import RequestError
from arlarena.inference.api.parameters import short_json

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# An assistant's message with one of these fields needs no content, as in OpenAI's API.
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")


def plain_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns all messages. The `content` of each returned message is a single text: a list of text parts is joined. If
    an assistant's message has one of the fields in `_INSTEAD_OF_CONTENT`, its content can be missing, and the returned
    content is the empty text.

    Fields with the value null or [] are left out, because clients send earlier replies with `refusal` null and
    `tool_calls` [].

    Raises:
        RequestError: status 400 if there is no message or if a role is unknown. Status 400 if a message has no content
            although it needs content. Status 400 if a content is not text.
    """
    if not messages:
        raise RequestError("messages is empty: send at least one message", param="messages")
    return [_plain(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _plain(message: dict[str, Any], at: str) -> dict[str, Any]:
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        got = "it is missing" if role is None else f"got {short_json(role)}"
        raise RequestError(f"{at}.role must be one of {', '.join(ROLES)}; {got}", param=f"{at}.role")
    cleaned = {key: value for key, value in message.items() if value not in (None, [])}
    return cleaned | {"content": _content(message, role, f"{at}.content")}


def _content(message: dict[str, Any], role: str, at: str) -> str:
    content = message.get("content")
    if content is None:
        if role == "assistant" and any(message.get(name) for name in _INSTEAD_OF_CONTENT):
            return ""
        state = "null" if "content" in message else "missing"
        fields = " or ".join(_INSTEAD_OF_CONTENT)
        why = f"{at} is {state}: send text (only an assistant's message with {fields} needs no content)"
        raise RequestError(why, param=at)
    if isinstance(content, list) and content:
        return "".join(_part_text(part, f"{at}[{i}]") for i, part in enumerate(content))
    if not isinstance(content, str):
        raise RequestError(f"{at} must be text or a list of text parts, got {short_json(content)}", param=at)
    return content


def _part_text(part: Any, at: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        message = f"{at}: the served model reads text only, so parts must be of type text, got {short_json(part)}"
        raise RequestError(message, param=f"{at}.type")
    if not isinstance(part.get("text"), str):
        raise RequestError(f"{at}.text must be text, got {short_json(part.get('text'))}", param=f"{at}.text")
    return str(part["text"])
