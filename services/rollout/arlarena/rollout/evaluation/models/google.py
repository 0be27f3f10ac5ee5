"""Google's Gemini API through google-genai: https://ai.google.dev/api/generate-content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.genai import Client
from google.genai.types import GenerateContentConfig, HttpOptions, Part

from arlarena.rollout.evaluation.models.connection import ApiConnection
from arlarena.rollout.evaluation.models.errors import Denied, ModelError, Rejected, Retryable
from arlarena.rollout.evaluation.models.failures import VendorError, model_errors
from arlarena.rollout.evaluation.models.http import http_client
from arlarena.rollout.evaluation.models.protocol import Finish, ModelMessage, Reply, SamplingRequest, TokenUsage
from arlarena.rollout.evaluation.models.replies import (
    checked,
    clean_name,
    clean_text,
    split_system,
    token_count,
    token_sum,
    without_blank_replies,
)

BASE_URL = "https://generativelanguage.googleapis.com"
# Each parameter in the SDK's spelling and in the API's spelling.
RESERVED = frozenset(
    ("system_instruction", "systemInstruction", "http_options", "httpOptions", "candidate_count", "candidateCount")
)
_SEED_BITS = 31  # the API's seed is a signed 32-bit integer; a negative seed is never sent
_TOOL_CALLS = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS")
_REFUSALS = (
    "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "ESCALATION", "MODEL_ARMOR", "LANGUAGE",
    "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
)  # fmt: skip
_FINISH: Mapping[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(_TOOL_CALLS, "tool_calls"),
    **dict.fromkeys(_REFUSALS, "refusal"),
}
# Words of the API's 400 errors about a wrong key or an unsupported country.
_DENIED_WORDS = ("API key not valid", "API key expired", "User location is not supported")


class GoogleModel:
    """A Gemini model. If the vendor blocks a prompt, the reply is a refusal with an empty text."""

    def __init__(self, connection: ApiConnection) -> None:
        self.name, self.sees_images = connection.name, connection.sees_images
        self._connection = connection
        self._http = http_client(connection.limits)
        # vertexai=False overrides the environment variable GOOGLE_GENAI_USE_VERTEXAI. This variable may select another
        # service. By default, the SDK does not retry.
        self._client = Client(
            api_key=connection.key,
            vertexai=False,
            http_options=HttpOptions(base_url=connection.base_url, httpx_async_client=self._http),
        )

    async def reply(self, messages: Sequence[ModelMessage], sampling: SamplingRequest, *, seed: int) -> Reply:
        """Send one request. See `protocol.ChatModel.reply`."""
        extra = checked(self._connection, messages, sampling, RESERVED)
        system, turns = split_system(messages)
        if any(turn.role == "system" for turn in turns):
            raise Rejected(
                self._connection.message("Gemini accepts system messages only at the start of the conversation")
            )
        config = self._config(system, sampling, extra, seed)
        async with model_errors(self._connection, self._special_case):
            response = await self._client.aio.models.generate_content(
                model=self._connection.model,
                contents=[_content(turn) for turn in without_blank_replies(turns)],
                config=config,
            )
            return _reply(response, self._connection)

    def _config(self, system: str, sampling: SamplingRequest, extra: Mapping[str, Any], seed: int) -> Any:
        """Returns the request's parameters in the SDK's format.

        Raises:
            Denied: the SDK does not know a parameter of `extra`, or the value of a parameter is invalid.
        """
        given = {
            "system_instruction": system or None,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_output_tokens": sampling.max_tokens,
            "stop_sequences": list(sampling.stop) or None,
            "seed": seed & ((1 << _SEED_BITS) - 1),
            "automatic_function_calling": {"disable": True},
            "automatic_continuation": False,  # the SDK sends only one request
        }
        try:
            return GenerateContentConfig(**{**given, **extra})
        except ValueError as error:
            raise Denied(self._connection.message(f"invalid parameter: {error}")) from None

    def _special_case(self, error: VendorError) -> ModelError | None:
        """Returns Denied for a 400 error about a wrong key or an unsupported country, else None."""
        if error.status == 400 and any(words in error.message for words in _DENIED_WORDS):
            reason = f"{error.reason} (key from the environment variable {self._connection.key_variable})"
            return Denied(self._connection.message(reason))
        return None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aio.aclose()
        self._client.close()
        await self._http.aclose()


def _content(message: ModelMessage) -> dict[str, Any]:
    """Converts a message to the API's format. The images come before the text."""
    images = [Part.from_bytes(data=picture.data, mime_type=picture.media_type) for picture in message.images]
    role = "model" if message.role == "assistant" else "user"
    return {"role": role, "parts": [*images, Part.from_text(text=message.text)]}


def _reply(response: Any, connection: ApiConnection) -> Reply:
    """Converts the API's response to a reply. If the API blocked the prompt, the reply is a refusal without text.

    Raises:
        Retryable: the response has no candidates, although the API did not block the prompt.
    """
    known: dict[str, Any] = {
        "usage": _usage(response.usage_metadata),
        "model": clean_name(response.model_version),
        "request_id": clean_name(response.response_id),
    }
    if not response.candidates:
        if response.prompt_feedback is not None and response.prompt_feedback.block_reason is not None:
            return Reply(text="", finish="refusal", **known)
        raise Retryable(connection.message("the response has no candidates"), possibly_charged=True)
    candidate = response.candidates[0]
    parts = (candidate.content.parts if candidate.content is not None else None) or []
    finish = _FINISH.get(str(getattr(candidate.finish_reason, "value", "")), "other")
    if finish == "stop" and any(part.function_call is not None for part in parts):
        finish = "tool_calls"
    return Reply(
        text="".join(clean_text(part.text) for part in parts if not part.thought),
        finish=finish,
        reasoning="".join(clean_text(part.text) for part in parts if part.thought),
        **known,
    )


def _usage(usage: Any) -> TokenUsage:
    """Returns a request's token usage. `output` is the API's number of candidate tokens plus the thought tokens."""
    if usage is None:
        return TokenUsage()
    thoughts = token_count(usage.thoughts_token_count)
    return TokenUsage(
        input=token_sum(map(token_count, (usage.prompt_token_count, usage.tool_use_prompt_token_count))),
        output=token_sum((token_count(usage.candidates_token_count), thoughts)),
        reasoning=thoughts,
        cached=token_count(usage.cached_content_token_count),
    )
