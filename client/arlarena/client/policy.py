"""The client of the policy server. It sends prompts as token ids, and returns sampled tokens with their log-probs.

    async with PolicyClient("http://127.0.0.1:8001", Timeouts(request_s=60)) as policy:
        generation = await policy.generate(prompt_ids, Sampling(max_tokens=64), seed=7)

Rollouts use the token route (`generate`). Its response contains the sampled tokens and the weight version of each
token. `chat` works with all servers that have OpenAI's API, for example to record demonstrations of another model. All
requests are idempotent, so a failed request can be retried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import msgspec

from arlarena.client.arguments import valid_integer
from arlarena.client.errors import PromptTooLong, Refused, Unavailable
from arlarena.client.transport import Answer, AsyncClosing, HttpTransport, Timeouts
from arlarena.proto.policy import (
    GENERATE_ROUTE,
    SESSION_HEADER,
    TIMEOUT_HEADER,
    GenerateRequest,
    SamplingParams,
    WeightInfo,
    WeightSpan,
)
from arlarena.proto.trajectory import PolicyVersion, Sampling, VersionSpan

NEWER_MAX_TOKENS_FIELD = "max_completion_tokens"

T = TypeVar("T")
FinishReason = Literal["stop", "length", "abort"]


class _Logprob(msgspec.Struct):
    logprob: float


class _Logprobs(msgspec.Struct):
    content: list[_Logprob] | None = None


class _Choice(msgspec.Struct):
    """The fields of a `GenerateChoice` that a rollout needs. Other fields are not decoded, to save time."""

    token_ids: list[int] | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    weight_versions: list[WeightSpan] | None = None


class _Generated(msgspec.Struct):
    choices: list[_Choice]


class _Message(msgspec.Struct):
    content: str | None = None


class _ChatChoice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _ChatUsage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0


class _Chat(msgspec.Struct):
    choices: list[_ChatChoice]
    usage: _ChatUsage | None = None


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


@dataclass(frozen=True, slots=True)
class Generation:
    """One sampled response.

    `logprobs`: the log-prob of each token in nats, at the request's temperature. `spans`: ranges of tokens, each with
    the version of the weights that sampled it. The ranges are in order and cover all tokens.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]
    spans: tuple[VersionSpan, ...]


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A chat reply as text. The token counts are the server's values, or 0 if the server returned none."""

    text: str
    finish_reason: str
    prompt_tokens: int
    response_tokens: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The served model. `max_tokens`: maximum number of tokens of prompt and response together, None if unknown."""

    name: str
    max_tokens: int | None


_generated_decoder = msgspec.json.Decoder(_Generated)
_encoder = msgspec.json.Encoder()


def read_version(label: str) -> PolicyVersion:
    """Parse a version label of the form `incarnation:step:digest`.

    Any other label, such as a label of vLLM, becomes the digest of the version `unlabelled:0:<digest>`. In this digest,
    `-` replaces each `:`. An empty label becomes `-`.
    """
    try:
        return PolicyVersion.parse(label)
    except ValueError:
        return PolicyVersion("unlabelled", 0, label.replace(":", "-") or "-")


def _read(answer: Answer, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.MsgspecError as error:
        raise answer.malformed(error) from error


def _check_spans(answer: Answer, spans: tuple[VersionSpan, ...], tokens: int) -> None:
    edges = [0, *(span.end for span in spans)]
    if [span.start for span in spans] != edges[:-1] or edges[-1] != tokens:
        raise answer.malformed(f"the ranges of its weight versions do not cover its {tokens} tokens in order")


def _generation(answer: Answer) -> Generation:
    """Decode a successful response of the token route.

    Raises:
        Unavailable: the server aborted the generation.
        ProtocolError: the response is malformed, or its token ids, log-probs and weight versions do not match.
    """
    try:
        choice = _generated_decoder.decode(answer.body).choices[0]
    except (msgspec.MsgspecError, IndexError) as error:
        raise answer.malformed(error) from error
    if choice.finish_reason == "abort":
        raise Unavailable(f"{answer.request}: the server aborted the generation")
    if choice.finish_reason not in ("stop", "length"):
        raise answer.malformed(f"finish reason {choice.finish_reason!r}")
    ids = choice.token_ids or []
    logprobs = [entry.logprob for entry in (choice.logprobs.content or [] if choice.logprobs else [])]
    if len(ids) != len(logprobs):
        raise answer.malformed(f"{len(ids)} token ids but {len(logprobs)} log-probs")
    spans = tuple(VersionSpan(s.start, s.end, read_version(s.version)) for s in choice.weight_versions or [])
    _check_spans(answer, spans, len(ids))
    return Generation(ids, logprobs, cast(Literal["stop", "length"], choice.finish_reason), spans)


def _too_long(answer: Answer) -> bool:
    """True if the response is an error about a prompt that is too long. Servers word this error differently."""
    text = answer.body.lower()
    return answer.status in (400, 413, 422) and any(
        words in text
        for words in (
            b"maximum context length",
            b"context length",
            b"max_model_len",
            b"maximum model length",
            b"context_length_exceeded",
        )
    )


class PolicyClient(AsyncClosing):
    """A client of one policy server. Safe for any number of concurrent requests on one event loop."""

    def __init__(
        self, url: str, timeouts: Timeouts | None = None, *, retries: int = 2, token: str | None = None
    ) -> None:
        """`url`: base URL of the server. `retries`: maximum number of retries of a request while the server is
        unavailable. `token`: bearer token or API key.

        Raises:
            TypeError, ValueError: an argument is invalid. The message contains the argument's name.
        """
        self.transport = HttpTransport(
            url, Timeouts() if timeouts is None else timeouts, token, service="policy server"
        )
        self.retries = valid_integer("retries", retries)
        self._max_tokens_field = "max_tokens"

    @property
    def url(self) -> str:
        """The base URL."""
        return self.transport.url

    async def close(self) -> None:
        """Close all connections."""
        await self.transport.close()

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        seed: int,
        stop: Sequence[str] = (),
        request_id: str | None = None,
        session: str | None = None,
        timeout_s: float | None = None,
    ) -> Generation:
        """Sample one response to the prompt `prompt_ids`. A response ends at the latest after `sampling.max_tokens`.

        `stop`: stop strings; the token that completes one of them is the last token of the response. `session`: a name
        for the episode. A gateway sends all requests with the same name to the same replica, because this replica has
        the episode's earlier prompts in its prefix cache. `timeout_s`: time limit of each attempt.

        Raises:
            Unavailable: the request and all retries failed: the server was unreachable, too slow, or had a failure.
            PromptTooLong: the prompt does not fit the model's context.
            Refused: the server rejected the request for another reason.
            ProtocolError: the response is malformed, or its token ids, log-probs and weight versions do not match.
        """
        request = GenerateRequest(
            token_ids=list(prompt_ids),
            sampling_params=SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                seed=seed,
                max_tokens=sampling.max_tokens,
                stop=list(stop) or None,
                logprobs=0,
            ),
            request_id=request_id,
        )
        limit = self.transport.timeouts.request_s if timeout_s is None else timeout_s
        body = _encoder.encode(request)
        headers = {TIMEOUT_HEADER: f"{limit:g}"} | ({SESSION_HEADER: session} if session else {})
        answer = await self._send("POST", GENERATE_ROUTE, body, limit, headers)
        return _generation(answer)

    async def chat(
        self,
        messages: Sequence[dict[str, Any]],
        sampling: Sampling,
        *,
        model: str | None = None,
        seed: int | None = None,
        timeout_s: float | None = None,
    ) -> ChatReply:
        """Request a reply from `/v1/chat/completions` of a server with OpenAI's API. Raises the errors of `generate`.

        OpenAI's newer models require the field `max_completion_tokens` instead of `max_tokens`. If the server refuses
        `max_tokens`, the client sends the request again with `max_completion_tokens`, and keeps this field for later
        requests.
        """
        body: dict[str, Any] = {
            "messages": list(messages),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        body |= {key: value for key, value in (("model", model), ("seed", seed)) if value is not None}
        field = self._max_tokens_field  # a local copy, because concurrent requests may change the attribute
        try:
            answer = await self._chat(body | {field: sampling.max_tokens}, timeout_s)
        except Refused as error:
            if field == NEWER_MAX_TOKENS_FIELD or NEWER_MAX_TOKENS_FIELD not in str(error):
                raise
            self._max_tokens_field = NEWER_MAX_TOKENS_FIELD
            answer = await self._chat(body | {NEWER_MAX_TOKENS_FIELD: sampling.max_tokens}, timeout_s)
        reply = _read(answer, _Chat)
        if not reply.choices:
            raise answer.malformed("no choices")
        choice, usage = reply.choices[0], reply.usage or _ChatUsage()
        return ChatReply(
            choice.message.content or "",
            choice.finish_reason or "stop",
            usage.prompt_tokens,
            usage.completion_tokens or 0,
        )

    async def _chat(self, body: dict[str, Any], timeout_s: float | None) -> Answer:
        return await self._send("POST", "/v1/chat/completions", _encoder.encode(body), timeout_s)

    async def model(self) -> ModelInfo:
        """Returns the served model (`/v1/models`). Raises the errors of `generate`."""
        answer = await self._send("GET", "/v1/models")
        models = _read(answer, _Models)
        if not models.data:
            raise answer.malformed("no models")
        return ModelInfo(models.data[0].id, models.data[0].max_model_len)

    async def version(self) -> PolicyVersion:
        """Returns the version of the served weights (`/weight_info`). Raises the errors of `generate`."""
        return read_version(_read(await self._send("GET", "/weight_info"), WeightInfo).weight_version)

    async def healthy(self) -> bool:
        """True if `/health` responds with status 200. Sends one request without retries."""
        try:
            return (
                await self.transport.request("GET", "/health", timeout_s=self.transport.timeouts.connect_s)
            ).status == 200
        except Unavailable:
            return False

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        timeout_s: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request. Returns a response with status 200. Retries while the server is unavailable.

        Retries are safe, because all requests are idempotent. Raises the errors of `generate`.
        """
        answer = await self.transport.request(
            method, path, body, timeout_s=timeout_s, headers=headers, retries=self.retries
        )
        if answer.status == 200:
            return answer
        if _too_long(answer):
            raise PromptTooLong(str(answer.refusal()), answer.status)
        raise answer.refusal()
