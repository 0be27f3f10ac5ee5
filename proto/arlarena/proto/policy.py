"""Messages of the policy server. The server samples responses, and scores texts (returns their token log-probs).

    POST /inference/v1/generate   GenerateRequest  -> GenerateResponse   token ids in, token ids and weight versions out
    POST /v1/completions          CompletionRequest -> CompletionResponse (scores: prompt_logprobs=0, max_tokens=1)
    GET  /weight_info             WeightInfo       the version of the served weights

Field names and nesting are those of vLLM 0.32 (`entrypoints/scale_out/token_in_token_out/protocol.py`). The same client
therefore works with vLLM and with the embedded engine (the policy server's own engine). The structs have only the
fields that ARLArena uses. Other fields of vLLM's responses are ignored.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

GENERATE_ROUTE = "/inference/v1/generate"
TIMEOUT_HEADER = "x-request-timeout-s"  # time limit of the request in seconds; the server may have a lower limit
SESSION_HEADER = "x-session-id"  # a gateway sends requests with the same id to the same replica, for prefix caching
VERSIONS_HEADER = "x-weight-versions"  # in responses: the versions that possibly sampled tokens, separated by ", "


class SamplingParams(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Sampling parameters. If `max_tokens` is None, only the model's context limits the response.

    `top_k` 0 means no limit. If `logprobs` is a number k, the response has the log-probs of the sampled token and of
    the k most likely tokens. The embedded engine does not implement `presence_penalty` and the fields after it. It
    accepts only their default values or other values without effect.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_p: float = 0.0
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    logit_bias: dict[str, float] | None = None
    bad_words: list[str] | None = None


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options of a streamed response."""

    include_usage: bool = False


class GenerateRequest(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A request with a prompt of token ids. The response has the same `request_id`, with a prefix."""

    token_ids: list[int]
    sampling_params: SamplingParams
    request_id: str | None = None
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    output_mode: str = "tokens"
    priority: int = 0


class WeightSpan(msgspec.Struct, frozen=True):
    """Says that the weights with the label `version` sampled the response tokens from `start` to `end` - 1."""

    version: str
    start: int
    end: int


class TopLogprob(msgspec.Struct):
    """One candidate token: its id, its log-prob in nats, and its rank (1 is the most likely)."""

    token_id: int
    logprob: float
    rank: int | None = None


class TokenLogprob(TopLogprob):
    """The sampled token at one position. `top_logprobs`: the sampled token, then the most likely tokens by rank."""

    top_logprobs: list[TopLogprob] = []


class GenerateLogprobs(msgspec.Struct):
    """One entry for each generated token, including an end-of-sequence token."""

    content: list[TokenLogprob] | None = None


class GenerateChoice(msgspec.Struct, kw_only=True):
    """One sampled response.

    `token_ids` includes the end-of-sequence token if it was sampled. `finish_reason` is `stop`, `length` or `abort`. It
    is `abort` if the server ended the request early, for example because the client disconnected. `stop_reason`: the
    stop string or the stop token id that ended the response; None if an end-of-sequence token or the length ended it.
    """

    index: int
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: GenerateLogprobs | None = None
    weight_versions: list[WeightSpan] | None = None


class Usage(msgspec.Struct):
    """Token counts of one request."""

    prompt_tokens: int = 0
    total_tokens: int = 0
    completion_tokens: int | None = 0


class PromptLogprob(msgspec.Struct):
    """The log-prob of a prompt token, given all earlier tokens, at temperature 1, in nats."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


PromptLogprobs = list[dict[int, PromptLogprob] | None]


class GenerateResponse(msgspec.Struct, kw_only=True):
    """The response of `/inference/v1/generate`. A streamed response consists of several of these messages.

    In a stream, only the last message has `weight_versions`.
    """

    request_id: str
    choices: list[GenerateChoice]
    output_mode: str = "tokens"
    model: str | None = None
    created: int | None = None
    usage: Usage | None = None
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None


class TextRequest(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Common parameters of OpenAI's completion and chat requests, with vLLM's additions."""

    model: str | None = None
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None


class CompletionRequest(TextRequest, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """OpenAI's completion request with vLLM's additions. It has only the fields that the embedded engine implements.

    `prompt`: text, token ids, or a list of texts or token ids.
    """

    prompt: str | list[Any]
    max_tokens: int | None = 16
    logprobs: int | None = None
    add_special_tokens: bool = True


class CompletionLogprobs(msgspec.Struct):
    """Parallel lists with one entry for each generated token, including an end-of-sequence token."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(msgspec.Struct, kw_only=True):
    """One completion. `prompt_logprobs[0]` is None, because no token precedes the first token."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: PromptLogprobs | None = None


class CompletionResponse(msgspec.Struct, kw_only=True):
    """The response of `/v1/completions`."""

    id: str
    model: str
    choices: list[CompletionChoice]
    object: str = "text_completion"
    created: int = 0
    usage: Usage | None = None


class ErrorInfo(msgspec.Struct):
    """An error in OpenAI's form. `code`: the kind of error, or the HTTP status in vLLM. `param`: the invalid field."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class ErrorResponse(msgspec.Struct):
    """The body of every error response."""

    error: ErrorInfo


class WeightInfo(msgspec.Struct):
    """The version of the served weights, as `str(PolicyVersion)`."""

    weight_version: str


def finite(value: float) -> float:
    """Returns `value`, or -9999 (as vLLM does) if `value` is infinite or NaN. JSON cannot represent these values."""
    return value if math.isfinite(value) else -9999.0
