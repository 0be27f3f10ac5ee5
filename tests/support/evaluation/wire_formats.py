"""The server side of the three vendors' wire formats: reads requests, and writes replies and errors.

The code follows the API references of the vendors. It does not use the tested code.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from arlarena.rollout.evaluation.models.protocol import ModelMessage, PictureBytes

Ending = Literal["stop", "length", "refusal", "tool_calls"]


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request, in the same form for all vendors."""

    model: str
    messages: tuple[ModelMessage, ...]
    max_tokens: int | None
    stop: tuple[str, ...]
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class WireReply:
    """A reply, in the same form for all vendors. The numbers are tokens; `input` includes `cached`."""

    text: str
    ending: Ending
    input: int
    output: int
    reasoning: int = 0
    cached: int = 0
    reasoning_text: str = ""


class WireError(Exception):
    """A request that the API rejects."""

    def __init__(self, status: int, message: str, *, code: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


class Wire(Protocol):
    """A wire format. `path`: path of the route in aiohttp's syntax. `overloaded`: status of an overloaded server."""

    path: str
    overloaded: int

    def key(self, headers: Mapping[str, str]) -> str: ...
    def read(self, body: dict[str, Any], model: str, headers: Mapping[str, str]) -> WireRequest: ...
    def reply(self, request: WireRequest, reply: WireReply, number: int) -> dict[str, Any]: ...
    def error(self, error: WireError) -> dict[str, Any]: ...


def picture(media_type: str, data: str) -> PictureBytes:
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise WireError(400, "the image is no valid base64") from None
    starts = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8"}
    if media_type not in starts or not content.startswith(starts[media_type]):
        raise WireError(400, f"the image is no {media_type}")
    return PictureBytes(media_type, content)  # type: ignore[arg-type]


def unknown_fields(body: Mapping[str, Any], known: str) -> None:
    if unknown := sorted(body.keys() - set(known.split())):
        message = f"Unrecognized request argument: '{unknown[0]}'"
        raise WireError(400, message, code="unknown_parameter", param=unknown[0])


def parts_of(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class OpenAiWire:
    """Chat Completions. Models with names `reasoning-…` reject `max_tokens`, like OpenAI's reasoning models."""

    path, overloaded = "/v1/chat/completions", 503
    fields = (
        "model messages temperature top_p max_tokens max_completion_tokens stop seed reasoning_effort logit_bias n "
        "stream presence_penalty frequency_penalty"
    )

    def key(self, headers: Mapping[str, str]) -> str:
        return headers.get("authorization", "").removeprefix("Bearer ")

    def read(self, body: dict[str, Any], model: str, headers: Mapping[str, str]) -> WireRequest:
        unknown_fields(body, self.fields)
        model = body["model"]
        if model.startswith("reasoning-") and "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens' is not supported with this model. "
            message += "Use 'max_completion_tokens' instead."
            raise WireError(400, message, code="unsupported_parameter", param="max_tokens")
        stop = body.get("stop", [])
        return WireRequest(
            model,
            tuple(self._message(message) for message in body["messages"]),
            body.get("max_completion_tokens", body.get("max_tokens")),
            tuple([stop] if isinstance(stop, str) else stop),
            body,
        )

    def _message(self, message: dict[str, Any]) -> ModelMessage:
        images, texts = [], []
        for part in parts_of(message["content"]):
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                match = re.fullmatch(r"data:([\w/]+);base64,(.*)", part["image_url"]["url"])
                if not match:
                    raise WireError(400, "the image is no data URL")
                images.append(picture(match[1], match[2]))
        return ModelMessage(message["role"], "".join(texts), tuple(images))

    def reply(self, request: WireRequest, reply: WireReply, number: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
        if reply.reasoning_text:
            message["reasoning_content"] = reply.reasoning_text
        if reply.ending == "refusal":
            message |= {"content": None, "refusal": reply.text}
        if reply.ending == "tool_calls":
            call = {"id": "call_1", "type": "function", "function": {"name": "move", "arguments": "{}"}}
            message |= {"content": None, "tool_calls": [call]}
        finish = "stop" if reply.ending == "refusal" else reply.ending
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 1,
            "model": request.model + "-2026-01-01",
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": {
                "prompt_tokens": reply.input,
                "completion_tokens": reply.output,
                "total_tokens": reply.input + reply.output,
                "prompt_tokens_details": {"cached_tokens": reply.cached},
                "completion_tokens_details": {"reasoning_tokens": reply.reasoning},
            },
        }

    def error(self, error: WireError) -> dict[str, Any]:
        kind = {401: "invalid_request_error", 429: "requests", 500: "server_error", 503: "server_error"}
        code = error.code or {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}.get(
            error.status
        )
        details = {"message": error.message, "type": kind.get(error.status, "invalid_request_error")}
        return {"error": {**details, "param": error.param, "code": code}}


class AnthropicWire:
    """The Messages API in its versions 2026-10-21 and 2023-06-01. Only 2023-06-01 has sampling parameters."""

    path, overloaded = "/v1/messages", 529
    fields = "model messages max_tokens system stop_sequences thinking metadata stream"
    sampling = "temperature top_p top_k"
    endings = {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal", "tool_calls": "tool_use"}  # noqa: RUF012

    def key(self, headers: Mapping[str, str]) -> str:
        if "anthropic-version" not in headers:
            raise WireError(400, "anthropic-version: header is required")
        return headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")

    def read(self, body: dict[str, Any], model: str, headers: Mapping[str, str]) -> WireRequest:
        old = headers["anthropic-version"] == "2023-06-01"
        known = f"{self.fields} {self.sampling}" if old else self.fields
        if unknown := sorted(body.keys() - set(known.split())):
            raise WireError(400, f"{unknown[0]}: Extra inputs are not permitted")
        if "max_tokens" not in body:
            raise WireError(400, "max_tokens: Field required")
        system = [ModelMessage("system", body["system"])] if "system" in body else []
        messages = [self._message(message) for message in body["messages"]]
        if not messages or messages[0].role != "user":
            raise WireError(400, "messages: first message must use the user role")
        if any(not message.text.strip() for message in messages):
            raise WireError(400, "messages: text content blocks must be non-empty")
        stop = tuple(body.get("stop_sequences", ()))
        return WireRequest(body["model"], (*system, *messages), body["max_tokens"], stop, body)

    def _message(self, message: dict[str, Any]) -> ModelMessage:
        if message["role"] not in ("user", "assistant", "system"):
            raise WireError(400, 'messages: Unexpected role. The Messages API accepts "user" and "assistant"')
        images, texts = [], []
        for part in parts_of(message["content"]):
            if part["type"] == "text":
                texts.append(part["text"])
            elif part["source"]["type"] != "base64":
                raise WireError(400, "source.type: only base64 is imitated")
            else:
                images.append(picture(part["source"]["media_type"], part["source"]["data"]))
        return ModelMessage(message["role"], "".join(texts), tuple(images))

    def reply(self, request: WireRequest, reply: WireReply, number: int) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if reply.reasoning_text:
            content.append({"type": "thinking", "thinking": reply.reasoning_text, "signature": "s"})
        if reply.text and reply.ending != "refusal":
            content.append({"type": "text", "text": reply.text})
        if reply.ending == "tool_calls":
            content = [{"type": "tool_use", "id": "toolu_1", "name": "move", "input": {}}]
        return {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": request.model + "-20260101",
            "content": content,
            "stop_reason": self.endings[reply.ending],
            "stop_sequence": None,
            "usage": {
                "input_tokens": reply.input - reply.cached,
                "cache_read_input_tokens": reply.cached,
                "cache_creation_input_tokens": 0,
                "output_tokens": reply.output,
                "output_tokens_details": {"thinking_tokens": reply.reasoning},
            },
        }

    def error(self, error: WireError) -> dict[str, Any]:
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}
        kind = kinds.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": "req_1"}


class GoogleWire:
    """generateContent of the Gemini API."""

    path, overloaded = "/{version:v1|v1beta}/models/{model}:generateContent", 503
    settings = "temperature topP topK maxOutputTokens stopSequences seed thinkingConfig candidateCount"
    endings = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "UNEXPECTED_TOOL_CALL"}  # noqa: RUF012

    def key(self, headers: Mapping[str, str]) -> str:
        return headers.get("x-goog-api-key", "")

    def read(self, body: dict[str, Any], model: str, headers: Mapping[str, str]) -> WireRequest:
        unknown_fields(body, "contents systemInstruction generationConfig safetySettings tools toolConfig")
        settings = body.get("generationConfig", {})
        unknown_fields(settings, self.settings)
        if not -(2**31) <= settings.get("seed", 0) < 2**31:
            raise WireError(400, "Invalid value at 'generation_config.seed' (TYPE_INT32)")
        system = body.get("systemInstruction")
        messages = [self._message("system", system)] if system else []
        for content in body["contents"]:
            role = {"user": "user", "model": "assistant"}.get(content["role"])
            if role is None or not content["parts"]:
                raise WireError(400, "Please use a valid role: user, model.")
            messages.append(self._message(role, content))
        stop = tuple(settings.get("stopSequences", ()))
        return WireRequest(model, tuple(messages), settings.get("maxOutputTokens"), stop, body)

    def _message(self, role: Any, content: dict[str, Any]) -> ModelMessage:
        images = [part["inlineData"] for part in content["parts"] if "inlineData" in part]
        text = "".join(part.get("text", "") for part in content["parts"])
        if not text.strip():
            raise WireError(400, "Unable to submit request because it must have a text parameter.")
        # The JSON format of protocol buffers allows mimeType and mime_type. google-genai sends mime_type.
        kinds = [image.get("mimeType") or image["mime_type"] for image in images]
        # It also allows both alphabets of base64. google-genai sends the alphabet for URLs.
        data = [image["data"].translate(str.maketrans("-_", "+/")) for image in images]
        pictures = (picture(kind, text) for kind, text in zip(kinds, data, strict=True))
        return ModelMessage(role, text, tuple(pictures))

    def reply(self, request: WireRequest, reply: WireReply, number: int) -> dict[str, Any]:
        usage = {"promptTokenCount": reply.input, "totalTokenCount": reply.input + reply.output}
        known = {"modelVersion": request.model + "-001", "responseId": f"response-{number}"}
        if reply.ending == "refusal":
            return {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage, **known}
        usage["candidatesTokenCount"] = reply.output - reply.reasoning
        if reply.reasoning:
            usage["thoughtsTokenCount"] = reply.reasoning
        if reply.cached:
            usage["cachedContentTokenCount"] = reply.cached
        parts: list[dict[str, Any]] = [{"text": reply.text}] if reply.text else []
        if reply.reasoning_text:
            parts.insert(0, {"text": reply.reasoning_text, "thought": True})
        if reply.ending == "tool_calls":
            parts = [{"functionCall": {"name": "move", "args": {}}}]
        content = {"role": "model", **({"parts": parts} if parts else {})}
        candidate = {"content": content, "finishReason": self.endings[reply.ending], "index": 0}
        return {"candidates": [candidate], "usageMetadata": usage, **known}

    def error(self, error: WireError) -> dict[str, Any]:
        names = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
        names |= {500: "INTERNAL", 503: "UNAVAILABLE"}
        status = names.get(error.status, "INVALID_ARGUMENT")
        return {"error": {"code": error.status, "message": error.message, "status": status}}


WIRES: dict[str, Wire] = {
    "openai": OpenAiWire(), "compatible": OpenAiWire(), "anthropic": AnthropicWire(), "google": GoogleWire()
}  # fmt: skip


def encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()
