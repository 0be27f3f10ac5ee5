"""Chat Completions: the API of OpenAI and of compatible servers (vLLM, SGLang, llama.cpp, gateways).

API: https://platform.openai.com/docs/api-reference/chat. Compatible servers use other names for a few fields. Some
servers know only `max_tokens` instead of `max_completion_tokens`. The reasoning is in the field `reasoning_content` or
`reasoning`. This adapter supports all these names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from arlarena.rollout.evaluation.models.chat_senders import ChatSender, RawCompletion, SdkSender, ServerSender
from arlarena.rollout.evaluation.models.connection import ApiConnection
from arlarena.rollout.evaluation.models.errors import ModelError, Rejected, Retryable
from arlarena.rollout.evaluation.models.failures import VendorError, model_errors
from arlarena.rollout.evaluation.models.http import HttpFailure
from arlarena.rollout.evaluation.models.protocol import Finish, ModelMessage, Reply, SamplingRequest, TokenUsage
from arlarena.rollout.evaluation.models.replies import (
    base64_text,
    checked,
    clean_name,
    clean_text,
    token_count,
)

BASE_URL = "https://api.openai.com/v1"
RESERVED = frozenset(("model", "messages", "stream", "n"))
_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "refusal",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
# Error codes of OpenAI and Azure for a blocked prompt. A blocked prompt is a refusal, not an invalid request.
_BLOCKED = frozenset(("content_filter", "content_policy_violation", "invalid_prompt"))
_UNSUPPORTED = frozenset(("unsupported_parameter", "unknown_parameter"))
# Words in the error messages of compatible servers that send no code for an unsupported parameter.
_UNSUPPORTED_WORDS = ("unsupported parameter", "not supported", "unknown", "unrecognized", "extra inputs", "unexpected")


class _PromptBlocked(Rejected):
    """The vendor's filter blocked the prompt. `reply` returns a refusal."""


class OpenAiChatModel:
    """A model behind the Chat Completions API.

    The maximum number of tokens is sent as `max_completion_tokens` to OpenAI's own API, because OpenAI's newer models
    accept only this name. Other servers get it as `max_tokens`, because more servers know this name. If a server
    rejects one of the two names, the next requests use the other name. If a server rejects `seed`, the next requests
    have no seed.
    """

    def __init__(self, connection: ApiConnection, *, own_api: bool, sdk: bool = True) -> None:
        """Create the adapter. It sends no request.

        Args:
            connection: the address, the key and the model.
            own_api: whether the address is OpenAI's own API.
            sdk: whether OpenAI's SDK sends the requests. If False, `ServerSender` sends them.
        """
        self.name, self.sees_images = connection.name, connection.sees_images
        self._connection = connection
        self._limit_name = "max_completion_tokens" if own_api else "max_tokens"
        self._seeded = True
        self._sender: ChatSender = SdkSender(connection) if sdk else ServerSender(connection)

    async def reply(self, messages: Sequence[ModelMessage], sampling: SamplingRequest, *, seed: int) -> Reply:
        """Send one request. See `protocol.ChatModel.reply`."""
        extra = checked(self._connection, messages, sampling, RESERVED)
        parameters: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self._limit_name: sampling.max_tokens,
            "stop": list(sampling.stop) or None,
            "seed": seed if self._seeded else None,
        }
        parameters = {name: value for name, value in parameters.items() if value is not None}
        sent = frozenset(parameters)
        request = {"model": self._connection.model, "messages": [_message(one) for one in messages]}
        try:
            async with model_errors(self._connection, lambda error: self._special_case(error, sent)):
                response = await self._sender.send({**request, **parameters, **extra})
                return _reply(response, self._connection)
        except _PromptBlocked:
            return Reply(text="", finish="refusal", model=self._connection.model)

    def _special_case(self, error: VendorError, sent: frozenset[str]) -> ModelError | None:
        """Returns the error for a blocked prompt or an unsupported parameter. Returns None for other errors.

        `sent`: names of the request's parameters. If the server rejects `seed` or the name of the maximum number of
        tokens, the caller retries the request. The retry omits `seed`, or uses the other name.
        """
        if error.code in _BLOCKED and error.status < 500:
            return _PromptBlocked(self._connection.message(error.reason))
        if error.status in (400, 422) and (name := _unsupported(error, sent & {self._limit_name, "seed"})):
            if name == "seed":
                self._seeded = False
            else:
                self._limit_name = "max_tokens" if name == "max_completion_tokens" else "max_completion_tokens"
            reason = f"{error.reason} (further requests leave {name} out)"
            return Retryable(self._connection.message(reason), retry_after_s=0.0)
        return None

    async def close(self) -> None:
        """Close the connections."""
        await self._sender.close()


def _unsupported(error: VendorError, names: frozenset[str]) -> str:
    """Returns the parameter in `names` that the server reports as unsupported, or ""."""
    message = error.message
    if error.code not in _UNSUPPORTED and not any(word in message.lower() for word in _UNSUPPORTED_WORDS):
        return ""
    named = (name for name in sorted(names) if name == error.param or f"'{name}'" in message or f"`{name}`" in message)
    return next(named, "")


def _message(message: ModelMessage) -> dict[str, Any]:
    """Converts a message to the API's format. The images are data URLs and come before the text."""
    if not message.images:
        return {"role": message.role, "content": message.text}
    urls = (f"data:{picture.media_type};base64,{base64_text(picture)}" for picture in message.images)
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": message.role, "content": [*images, {"type": "text", "text": message.text}]}


def _reply(response: RawCompletion, connection: ApiConnection) -> Reply:
    """Converts a response to a reply. If the content is empty, the reply's text is the model's refusal.

    Raises:
        HttpFailure: a gateway reports an error in a response with status 200.
        Retryable: the response has no choices.
        Rejected, ValueError: see `_completion`.
        TypeError: `choices` is not a list; or the response, its first choice or its message is not a JSON object.
    """
    completion = _completion(response, connection)
    choices = completion.get("choices")
    if not choices:
        if isinstance(error := completion.get("error"), dict):
            raise _gateway_failure(error)
        raise Retryable(connection.message("the response has no choices"), possibly_charged=True)
    if not isinstance(choices, list):
        raise TypeError("the field choices is not a list")
    choice = _object(choices[0], "choice")
    message = _object(choice.get("message"), "message")
    refusal = clean_text(message.get("refusal"))
    finish = _FINISH.get(str(choice.get("finish_reason")), "other")
    if finish == "stop":  # some servers report "stop" for a tool call, too
        finish = "refusal" if refusal else "tool_calls" if message.get("tool_calls") else finish
    return Reply(
        text=_text(message.get("content")) or refusal,
        finish=finish,
        usage=_usage(completion.get("usage")),
        model=clean_name(completion.get("model")),
        request_id=clean_name(response.request_id) or clean_name(completion.get("id")),
        reasoning=_text(message.get("reasoning_content")) or _text(message.get("reasoning")),
    )


def _completion(response: RawCompletion, connection: ApiConnection) -> dict[str, Any]:
    """Returns the JSON object of a response.

    Raises:
        Rejected: the content type is not JSON and the body does not start with "{", so the address is probably wrong.
        ValueError: the response is not valid JSON.
        TypeError: the response is JSON, but not an object.
    """
    if "json" not in response.content_type.lower() and not response.body.lstrip().startswith(b"{"):
        start = response.body[:100].decode(errors="replace")
        raise Rejected(connection.message(f"no Chat Completions API at this address; the server returned {start!r}"))
    return _object(json.loads(response.body), "response")


def _object(value: object, name: str) -> dict[str, Any]:
    """Returns `value`. Raises TypeError if it is not a JSON object."""
    if not isinstance(value, dict):
        raise TypeError(f"the {name} is not an object")
    return value


def _text(content: object) -> str:
    """Returns the text of a message's content. The content is a string, a list of parts (Mistral), or null.

    Returns "" if there is no text.
    """
    if isinstance(content, list):
        return "".join(clean_text(part.get("text")) for part in content if isinstance(part, dict))
    return clean_text(content)


def _gateway_failure(error: dict[str, Any]) -> HttpFailure:
    """Returns an `HttpFailure` for an error object. Gateways such as OpenRouter send the object with status 200."""
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return HttpFailure(status, {}, json.dumps({"error": error}).encode())


def _usage(usage: object) -> TokenUsage:
    """Returns a request's token usage. Numbers that the server does not report are None."""
    if not isinstance(usage, dict):
        return TokenUsage()
    prompt, output = token_count(usage.get("prompt_tokens")), token_count(usage.get("completion_tokens"))
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    if cached is None:
        cached = token_count(usage.get("prompt_cache_hit_tokens"))  # DeepSeek
    # The completion_tokens of xAI do not include reasoning tokens.
    apart = prompt is not None and output is not None and reasoning is not None
    if apart and usage.get("total_tokens") == prompt + output + reasoning:  # type: ignore[operator]
        output += reasoning  # type: ignore[operator]
    return TokenUsage(input=prompt, output=output, reasoning=reasoning, cached=cached)


def _detail(usage: dict[str, Any], name: str, count: str) -> int | None:
    details = usage.get(name)
    return token_count(details.get(count)) if isinstance(details, dict) else None
