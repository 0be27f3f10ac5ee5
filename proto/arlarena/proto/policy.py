"""The wire of the policy server: vLLM's token route, completions and scoring, and the version in service.

    POST /inference/v1/generate   GenerateRequest  -> GenerateResponse   tokens in, tokens out, who sampled which
    POST /v1/completions          CompletionRequest -> CompletionResponse  (`prompt_logprobs=0, max_tokens=1` scores)
    GET  /weight_info             WeightInfo

Field names and nesting are those of vLLM 0.32 (`entrypoints/scale_out/token_in_token_out/protocol.py`), so one client
talks to either engine. The structs hold the fields that ARLArena uses; other fields of vLLM's answers are ignored.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

GENERATE_ROUTE = "/inference/v1/generate"
DEADLINE_HEADER = "x-request-timeout-s"  # seconds this request may take; the server's own limit caps it
SESSION_HEADER = "x-session-id"  # requests of one session share beginnings: a gateway sends them to one replica
VERSIONS_HEADER = "x-weight-versions"  # of an answer: the versions that sampled it or may have, ", " between


class SamplingParams(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How to sample. `max_tokens=None` means: up to the model's context.

    `logprobs`: None for none, k for the sampled token's and those of the k likeliest (0: the sampled token's alone).
    The second block exists in vLLM; the embedded engine accepts only the values that leave the distribution alone.
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
    """What a stream carries beside the tokens."""

    include_usage: bool = False


class GenerateRequest(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A prompt of token ids. `request_id` is echoed, with a prefix."""

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
    """Response tokens [start, end) were sampled by the weights labelled `version`."""

    version: str
    start: int
    end: int


class TopLogprob(msgspec.Struct):
    """One candidate: its id, its log-prob in nats, its rank (1 is the likeliest)."""

    token_id: int
    logprob: float
    rank: int | None = None


class TokenLogprob(TopLogprob):
    """The sampled token of one position. `top_logprobs`: that token, then the likeliest by rank."""

    top_logprobs: list[TopLogprob] = []


class GenerateLogprobs(msgspec.Struct):
    """One entry per generated token, an end-of-sequence token included."""

    content: list[TokenLogprob] | None = None


class GenerateChoice(msgspec.Struct, kw_only=True):
    """One sampled response.

    `token_ids` holds the end-of-sequence token if that was sampled. `finish_reason`: `stop`, `length` or `abort` (the
    server gave up, for example because its client left). `stop_reason`: the stop string or stop id, None at the end of
    sequence.
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
    """The log-prob of one prompt token given those before it, at temperature 1, in nats."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


PromptLogprobs = list[dict[int, PromptLogprob] | None]


class GenerateResponse(msgspec.Struct, kw_only=True):
    """The answer of `/inference/v1/generate`; a stream sends it in pieces, with `weight_versions` in the last."""

    request_id: str
    choices: list[GenerateChoice]
    output_mode: str = "tokens"
    model: str | None = None
    created: int | None = None
    usage: Usage | None = None
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None


class TextRequest(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Parameters that OpenAI's completion and chat requests share, with vLLM's additions."""

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
    """OpenAI's completion request with vLLM's additions; `prompt` is text, token ids, or a list of either. These are
    the parameters that the embedded engine implements.
    """

    prompt: str | list[Any]
    max_tokens: int | None = 16
    logprobs: int | None = None
    add_special_tokens: bool = True


class CompletionLogprobs(msgspec.Struct):
    """Parallel lists, one entry per generated token; an end-of-sequence token is included."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(msgspec.Struct, kw_only=True):
    """One completion. `prompt_logprobs[0]` is None: nothing precedes the first token."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: PromptLogprobs | None = None


class CompletionResponse(msgspec.Struct, kw_only=True):
    """The answer of `/v1/completions`."""

    id: str
    model: str
    choices: list[CompletionChoice]
    object: str = "text_completion"
    created: int = 0
    usage: Usage | None = None


class ErrorInfo(msgspec.Struct):
    """What went wrong, in OpenAI's form. `code` names the error for programs, `param` the field at fault. VLLM's `code`
    is the HTTP status.
    """

    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class ErrorResponse(msgspec.Struct):
    """The body of every error answer."""

    error: ErrorInfo


class WeightInfo(msgspec.Struct):
    """Which weights serve now: `str(PolicyVersion)`."""

    weight_version: str


def finite(value: float, floor: float = -9999.0) -> float:
    """A log-prob that JSON can hold: minus infinity and NaN become `floor`, as in vLLM."""
    return value if math.isfinite(value) else floor
