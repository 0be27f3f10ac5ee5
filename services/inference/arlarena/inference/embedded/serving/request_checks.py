"""Checks requests and converts them to sequences."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from arlarena.inference.api.errors import CONTEXT_LENGTH, RequestError
from arlarena.inference.api.parameters import short_json
from arlarena.inference.embedded.sampler import RowSampling, choice_seed
from arlarena.inference.embedded.sequence import Sequence, pack_key
from arlarena.inference.embedded.serving.chat_wire import ChatRequest
from arlarena.inference.embedded.text.codec import TextCodec
from arlarena.proto.policy import TIMEOUT_HEADER, CompletionRequest, SamplingParams

MAX_LOGPROBS = 20  # vLLM's default for max_logprobs
MAX_CHOICES = 128
MAX_STOPS = 16
MAX_STOP_CHARS = 1024
MAX_STOP_IDS = 1024
MAX_REQUEST_ID = 1024  # characters


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The served model, and limits on requests. `max_length`: maximum number of tokens of prompt and response together.
    `eos_ids`: the ids of the tokens that end a response. `request_timeout_s`: time limit of a request in seconds.
    """

    name: str
    vocab_size: int
    max_length: int
    eos_ids: frozenset[int]
    request_timeout_s: float


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """How the choices of one request are sampled and returned. `stops`: the stop strings. `stream`: whether the
    response is streamed. `deadline`: in seconds of `time.monotonic`.
    """

    params: SamplingParams
    stops: tuple[str, ...]
    stream: bool
    deadline: float


_SHOWN_NAME = 200  # maximum number of characters of a model's name in an error message


def check_model(name: str | None, served: ServedModel) -> None:
    """Refuse a request for a model that is not served.

    Raises:
        RequestError: status 404 (as in vLLM) if the model is not served.
    """
    if name is not None and name != served.name:
        message = f"model {name[:_SHOWN_NAME]!r} does not exist; this server serves {served.name!r}"
        raise RequestError(message, status=404, param="model", code="model_not_found")


def make_plan(params: SamplingParams, served: ServedModel, *, stream: bool, timeout_s: float | None) -> SamplingPlan:
    """Check the sampling parameters and return a plan. `timeout_s`: the client's time limit in seconds, or None.

    Raises:
        RequestError: status 400 if a value is out of range.
    """
    _check_range("n", params.n, 1, MAX_CHOICES)
    _check_range("temperature", params.temperature, 0.0, math.inf)
    if not math.isfinite(params.temperature):
        raise RequestError("temperature must be finite", param="temperature")
    if not 0.0 < params.top_p <= 1.0:
        message = (
            f"top_p must be above 0 and at most 1, got {short_json(params.top_p)}; for the most likely token, use "
            "temperature 0"
        )
        raise RequestError(message, param="top_p")
    _check_range("top_k", params.top_k, -1, math.inf)
    _check_range("max_tokens", params.max_tokens, 1, math.inf)
    _check_range("seed", params.seed, -(2**63), 2**64 - 1)
    _check_range("logprobs", params.logprobs, 0, MAX_LOGPROBS)
    _check_range("prompt_logprobs", params.prompt_logprobs, 0, MAX_LOGPROBS)
    stop_ids = params.stop_token_ids or ()
    if len(stop_ids) > MAX_STOP_IDS:
        raise RequestError(
            f"stop_token_ids accepts up to {MAX_STOP_IDS} ids, got {len(stop_ids)}", param="stop_token_ids"
        )
    check_ids(stop_ids, served, "stop_token_ids")
    limit = served.request_timeout_s if timeout_s is None else min(timeout_s, served.request_timeout_s)
    return SamplingPlan(params, _stops(params.stop), stream, time.monotonic() + limit)


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise RequestError(f"{name} must be {bounds}, got {short_json(value)}", param=name)


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS or not all(stops):
        raise RequestError(f"stop accepts up to {MAX_STOPS} strings, and no string may be empty", param="stop")
    if any(len(text) > MAX_STOP_CHARS for text in stops):
        raise RequestError(f"stop accepts strings of up to {MAX_STOP_CHARS} characters", param="stop")
    return stops


def check_ids(ids: Iterable[int], served: ServedModel, param: str) -> None:
    """Check that all ids are in the vocabulary. `param`: the name of the field in the error.

    Raises:
        RequestError: status 400 if an id is not in the vocabulary.
    """
    for token in ids:
        if not 0 <= token < served.vocab_size:
            raise RequestError(
                f"{param}: id {short_json(token)} is not in the vocabulary of {served.vocab_size} ids", param=param
            )


def check_prompt(ids: list[int], served: ServedModel, param: str, max_tokens: int | None = None) -> None:
    """Refuse a prompt that is empty, contains unknown ids, or is too long. The prompt and `max_tokens` response tokens
    (1 if None) must fit into the context. `param`: the name of the field in the error.

    Raises:
        RequestError: status 400 if the prompt is refused.
    """
    if not ids:
        raise RequestError(f"{param} is empty", param=param)
    if min(ids) < 0 or max(ids) >= served.vocab_size:
        check_ids(ids, served, param)
    needed = max_tokens or 1
    if len(ids) + needed > served.max_length:
        raise RequestError(
            f"this model's maximum context length is {served.max_length} tokens, but the prompt has {len(ids)} and the "
            f"response needs {short_json(needed)}: either shorten the prompt or lower max_tokens",
            param=param,
            code=CONTEXT_LENGTH,
        )


def check_request_id(request_id: str | None) -> None:
    """Refuse a long request id. The length is limited because every event of a stream contains the id.

    Raises:
        RequestError: status 400 if the id is too long.
    """
    if request_id is not None and len(request_id) > MAX_REQUEST_ID:
        raise RequestError(f"request_id accepts up to {MAX_REQUEST_ID} characters", param="request_id")


def check_deadline(deadline: float) -> None:
    """Raises RequestError with status 504 if `deadline` (seconds of `time.monotonic`) has passed."""
    if time.monotonic() >= deadline:
        message = f"the request ran out of time (header {TIMEOUT_HEADER}, server setting request_timeout_s)"
        raise RequestError(message, status=504)


def sequences(ids: list[int], plan: SamplingPlan, served: ServedModel, text: TextCodec) -> list[Sequence]:
    """Returns the `n` sequences for one checked prompt. If `max_tokens` is None, a response can fill the context."""
    p = plan.params
    seed = p.seed if p.seed is not None else secrets.randbits(63)
    room = served.max_length - len(ids)
    eos = frozenset() if p.ignore_eos else served.eos_ids
    stop_ids = frozenset(p.stop_token_ids or ())
    top = max(p.logprobs or 0, 0)
    key = pack_key(ids)
    return [
        Sequence(
            prompt=ids,
            sampling=RowSampling(
                p.temperature, p.top_p, min(max(p.top_k, 0), served.vocab_size), choice_seed(seed, choice), top
            ),
            max_tokens=min(p.max_tokens or room, room),
            stop_ids=stop_ids,
            eos_ids=eos,
            deadline=plan.deadline,
            stop_check=text.stop_check(plan.stops, skip_special=p.skip_special_tokens),
            score=p.prompt_logprobs if choice == 0 else None,
            stream=plan.stream,
            key=key,
        )
        for choice in range(p.n)
    ]


def sampling_params(request: CompletionRequest | ChatRequest) -> SamplingParams:
    """Returns the sampling parameters of a text request. Missing parameters have the defaults of `SamplingParams`, not
    of the model's `generation_config.json`.

    Raises:
        RequestError: status 400 if `top_logprobs` is out of range, or if it is set without `logprobs`.
    """
    names = set(SamplingParams.__struct_fields__) & set(request.__struct_fields__)
    params = SamplingParams(**{name: getattr(request, name) for name in names})
    if isinstance(request, ChatRequest):
        if request.top_logprobs and not request.logprobs:
            raise RequestError("top_logprobs needs logprobs = true", param="top_logprobs")
        _check_range("top_logprobs", request.top_logprobs, 0, MAX_LOGPROBS)
        params.logprobs = request.top_logprobs if request.logprobs else None
    return params


def prompts(prompt: str | list[Any], text: TextCodec, *, special: bool) -> Iterator[list[int]]:
    """Returns an iterator over the prompts of a completion request, as token ids. `prompt`: one text, one list of token
    ids, a list of texts, or a list of lists of token ids. Each text is tokenised when the iterator reaches it.
    `special`: add the tokenizer's begin and end tokens.

    Raises:
        RequestError: status 400 if `prompt` has another type or is empty. Status 400 if `prompt` contains a text but
            the model has no tokenizer.
    """
    if isinstance(prompt, str):
        prompt = [prompt]
    if prompt and all(type(item) is int for item in prompt):
        return iter([prompt])
    if prompt and all(isinstance(item, str) for item in prompt):
        return (text.encode(item, special=special) for item in prompt)
    if prompt and all(isinstance(item, list) and all(type(token) is int for token in item) for item in prompt):
        return iter(prompt)
    raise RequestError(
        "prompt must be a text, a list of token ids, a list of texts, or a list of lists of token ids; it must not be "
        "empty",
        param="prompt",
    )
