"""The JSON types of OpenAI's chat routes, with vLLM's additions."""

from __future__ import annotations

from typing import Any

import msgspec

from arlarena.proto.policy import PromptLogprobs, TextRequest, Usage


class ChatRequest(TextRequest, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A request to continue a conversation, with all parameters that the embedded engine implements. `top_logprobs`:
    how many of the most likely tokens are reported for each position.
    """

    messages: list[dict[str, Any]]
    max_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None


class ChatTopLogprob(msgspec.Struct):
    """A candidate for the token at one position. `token`: the token as text. `bytes`: the bytes that the token adds to
    the reply.
    """

    token: str
    logprob: float
    bytes: list[int] | None = None


class ChatTokenLogprob(ChatTopLogprob):
    """The sampled token at one position. `top_logprobs`: the most likely tokens at this position, with the most likely
    token first. The sampled token is in this list only if it is one of the most likely tokens.
    """

    top_logprobs: list[ChatTopLogprob] = []


class ChatLogprobs(msgspec.Struct):
    """The log-probs of a reply. `content`: one entry for each sampled token."""

    content: list[ChatTokenLogprob]


class ChatMessage(msgspec.Struct, omit_defaults=True):
    """A complete reply or a part of a reply."""

    role: str | None = None
    content: str | None = None


class ChatChoice(msgspec.Struct, kw_only=True):
    """One reply."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class ChatResponse(msgspec.Struct, kw_only=True):
    """The response of `/v1/chat/completions`."""

    id: str
    model: str
    choices: list[ChatChoice]
    object: str = "chat.completion"
    created: int = 0
    usage: Usage | None = None
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None


class ChatChunkChoice(msgspec.Struct, kw_only=True):
    """A part of one reply."""

    index: int
    delta: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class ChatChunk(msgspec.Struct, kw_only=True):
    """One event of a stream."""

    id: str
    model: str
    choices: list[ChatChunkChoice]
    object: str = "chat.completion.chunk"
    created: int = 0
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A text (`prompt`) or a conversation (`messages`) to convert to token ids."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    model: str | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = False


class TokenizeResponse(msgspec.Struct):
    """The response of `/tokenize`. `count`: the number of tokens. `max_model_len`: the context length in tokens.
    `token_strs`: the text of each token.
    """

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Token ids to convert to text."""

    tokens: list[int]
    model: str | None = None


class DetokenizeResponse(msgspec.Struct):
    """The response of `/detokenize`. `prompt`: the text of the token ids, including special tokens."""

    prompt: str
