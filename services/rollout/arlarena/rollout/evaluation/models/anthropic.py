"""Anthropic's Messages API: https://docs.anthropic.com/en/api/messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from anthropic import AsyncAnthropic

from arlarena.proto.telemetry import get_logger
from arlarena.rollout.evaluation.models.connection import ApiConnection
from arlarena.rollout.evaluation.models.errors import Denied, ModelError, Rejected
from arlarena.rollout.evaluation.models.failures import VendorError, model_errors
from arlarena.rollout.evaluation.models.http import http_client
from arlarena.rollout.evaluation.models.protocol import Finish, ModelMessage, Reply, SamplingRequest, TokenUsage
from arlarena.rollout.evaluation.models.replies import (
    base64_text,
    checked,
    clean_name,
    clean_text,
    split_system,
    token_count,
    token_sum,
    without_blank_replies,
)

BASE_URL = "https://api.anthropic.com"
# The API requires a maximum number of tokens. This number leaves room for reasoning, and all models allow it.
DEFAULT_MAX_TOKENS = 4096
# The SDK uses API version 2026-10-21. This version rejects all sampling parameters, even their default values. The
# earlier version 2023-06-01 accepts sampling parameters for models that support them. Source:
# https://platform.claude.com/docs/en/api/migration-2026-10-21
SAMPLING_VERSION = "2023-06-01"
_SAMPLING = frozenset(("temperature", "top_p", "top_k"))
# An error message about a parameter starts with the parameter's name: "temperature: Extra inputs are not permitted".
_PARAMETER = re.compile(r"`?(?:temperature|top_p|top_k|max_tokens|stop_sequences|thinking|output_config|model)\b")
RESERVED = frozenset(("model", "messages", "system", "stream"))
_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
}


class AnthropicModel:
    """A model behind the Messages API. The API has no seed.

    If the sampling parameters have no `max_tokens`, the adapter sends `DEFAULT_MAX_TOKENS`. If they have a temperature,
    `top_p` or `top_k`, the request uses the API version `SAMPLING_VERSION`. If the model supports no sampling
    parameters, such a request raises `Denied`.
    """

    def __init__(self, connection: ApiConnection) -> None:
        self.name, self.sees_images = connection.name, connection.sees_images
        self._connection = connection
        self._default_reported = False
        self._client = AsyncAnthropic(
            api_key=connection.key,
            base_url=connection.base_url,
            max_retries=0,
            timeout=connection.limits.request_s,
            http_client=http_client(connection.limits),
        )

    async def reply(self, messages: Sequence[ModelMessage], sampling: SamplingRequest, *, seed: int) -> Reply:
        """Send one request. See `protocol.ChatModel.reply`."""
        extra = checked(self._connection, messages, sampling, RESERVED)
        system, turns = split_system(messages)
        request = {"system": system or None, "stop_sequences": list(sampling.stop) or None}
        given = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        body = {name: value for name, value in given.items() if value is not None} | dict(extra)
        headers = {"anthropic-version": SAMPLING_VERSION} if _SAMPLING & body.keys() else {}
        create: Any = self._client.messages.create
        async with model_errors(self._connection, self._special_case):
            message = await create(
                model=self._connection.model,
                max_tokens=self._max_tokens(sampling),
                messages=[_message(turn) for turn in without_blank_replies(turns)],
                extra_body=body,
                extra_headers=headers,
                **{name: value for name, value in request.items() if value is not None},
            )
            return _reply(message, self._connection)

    def _max_tokens(self, sampling: SamplingRequest) -> int:
        """Returns the maximum number of tokens in the reply. Logs the first use of the default."""
        if sampling.max_tokens is not None:
            return sampling.max_tokens
        if not self._default_reported and "max_tokens" not in sampling.extra:
            self._default_reported = True
            reason = "Anthropic's API requires a limit; use --max-tokens to choose another limit"
            get_logger("rollout").info("default_max_tokens", model=self.name, limit=DEFAULT_MAX_TOKENS, reason=reason)
        return DEFAULT_MAX_TOKENS

    def _special_case(self, error: VendorError) -> ModelError | None:
        """Returns Denied for a 400 error about a parameter, else None.

        All requests of an evaluation have the same parameters, so the API would reject all requests.
        """
        if error.status == 400 and _PARAMETER.match(error.message):
            return Denied(self._connection.message(error.reason))
        return None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _message(message: ModelMessage) -> dict[str, Any]:
    """Converts a message to the API's format. Images come before the text."""
    if not message.images:
        return {"role": message.role, "content": message.text}
    sources = (
        {"type": "base64", "media_type": picture.media_type, "data": base64_text(picture)} for picture in message.images
    )
    images = [{"type": "image", "source": source} for source in sources]
    return {"role": message.role, "content": [*images, {"type": "text", "text": message.text}]}


def _reply(message: Any, connection: ApiConnection) -> Reply:
    """Converts the API's response to a reply.

    Raises:
        Rejected: the response is not a message of the Messages API.
    """
    if isinstance(message, str) or not isinstance(message.content, list):
        raise Rejected(
            connection.message(f"no Messages API at this address; the server returned {str(message)[:100]!r}")
        )
    return Reply(
        text="".join(clean_text(block.text) for block in message.content if block.type == "text"),
        finish=_FINISH.get(str(message.stop_reason), "other"),
        usage=_usage(message.usage),
        model=clean_name(message.model),
        request_id=clean_name(message._request_id) or clean_name(message.id),
        reasoning="".join(clean_text(block.thinking) for block in message.content if block.type == "thinking"),
    )


def _usage(usage: Any) -> TokenUsage:
    """Returns a request's token usage. `input` is the API's `input_tokens` plus tokens of cache reads and writes."""
    if usage is None:
        return TokenUsage()
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return TokenUsage(
        input=token_sum(token_count(getattr(usage, name, None)) for name in names),
        output=token_count(usage.output_tokens),
        reasoning=token_count(getattr(getattr(usage, "output_tokens_details", None), "thinking_tokens", None)),
        cached=token_count(getattr(usage, "cache_read_input_tokens", None)),
    )
