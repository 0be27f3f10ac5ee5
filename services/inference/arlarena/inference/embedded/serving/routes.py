"""The HTTP routes of a loaded model."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import torch

from arlarena.inference.api.asgi import MODEL_ROUTE, AnyResponse, ApiRequest, ApiResponse, EventStream, Handler, Headers
from arlarena.inference.api.errors import RequestError
from arlarena.inference.api.loop_fairness import Turns
from arlarena.inference.api.request_limits import RequestLimits
from arlarena.inference.api.weight_routes import WeightRoutes
from arlarena.inference.embedded.engine import Engine, EngineLimits, OnDeath
from arlarena.inference.embedded.engine_queue import Bridge
from arlarena.inference.embedded.sequence import Sequence
from arlarena.inference.embedded.serving import request_checks, streams
from arlarena.inference.embedded.serving.chat_wire import (
    ChatRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from arlarena.inference.embedded.serving.metrics import InferenceMetrics
from arlarena.inference.embedded.serving.request_checks import SamplingPlan, ServedModel
from arlarena.inference.embedded.serving.responses import ResponseBuilder, new_response_id
from arlarena.inference.embedded.serving.tokenizing import LONG_RESPONSE, Reader
from arlarena.inference.embedded.text.codec import TextCodec
from arlarena.inference.embedded.text.threads import TextWorkers
from arlarena.inference.embedded.weights.loading import LoadedVersion, load_model, load_version
from arlarena.inference.embedded.weights.push import WeightPush
from arlarena.inference.settings import InferenceSettings
from arlarena.inference.weights.store import Store
from arlarena.inference.weights.versions import VersionError, committed_versions
from arlarena.proto.policy import (
    VERSIONS_HEADER,
    CompletionRequest,
    GenerateRequest,
    SamplingParams,
    StreamOptions,
    WeightInfo,
)
from arlarena.proto.telemetry import Logger
from arlarena.proto.text.files import read_text

_encoder = msgspec.json.Encoder()

# In tokens. If max_model_len is not set, the context length is the model's maximum, but at most this number.
DEFAULT_MAX_LENGTH = 4096


class Serving:
    """A loaded model, its engine, and the handlers of its routes."""

    def __init__(
        self,
        settings: InferenceSettings,
        loaded: LoadedVersion,
        text: TextCodec,
        bridge: Bridge,
        engine: Engine,
        log: Logger,
    ) -> None:
        self.engine = engine
        self.log = log
        self.text = text
        self.bridge = bridge
        self.served = ServedModel(
            settings.served_model_name,
            loaded.arch.vocab_size,
            engine.limits.max_length,
            _eos_ids(loaded.directory, text),
            settings.request_timeout_s,
        )
        self.limits = RequestLimits.from_settings(settings, engine.slots, engine.limits.max_length)
        self.workers = TextWorkers(settings.text_threads, settings.text_timeout_s, settings.max_waiting)
        self.reader = Reader(text, self.served, self.limits, self.workers)
        self.directory = loaded.directory
        self.push = WeightPush(engine, loaded, log)
        self.weight_routes = WeightRoutes(Store(settings.weights_root, settings.keep_versions), self.push.serve)
        self.metrics = InferenceMetrics(engine, self.push)
        self._turns = Turns(bridge.loop)
        self.routes = self._routes()  # (method, path) -> handler
        self._created = int(time.time())

    def _routes(self) -> dict[tuple[str, str], Handler]:
        return {
            ("POST", "/inference/v1/generate"): self._with_metrics("generate", self.generate),
            ("POST", "/v1/completions"): self._with_metrics("completions", self.completions),
            ("POST", "/v1/chat/completions"): self._with_metrics("chat", self.chat),
            ("GET", "/v1/models"): self.models,
            ("GET", MODEL_ROUTE): self.model,
            ("POST", "/tokenize"): self._with_metrics("tokenize", self.tokenize),
            ("POST", "/detokenize"): self._with_metrics("detokenize", self.detokenize),
            ("GET", "/metrics"): self.prometheus_metrics,
            ("GET", "/weight_info"): self.weight_info,
            ("POST", "/serve_weights"): self.weight_routes.serve,
            ("PUT", "/weights/{directory}"): self.weight_routes.announce,
            ("PUT", "/weights/{directory}/{file}"): self.weight_routes.receive,
            ("POST", "/reset_prefix_cache"): self.reset_prefix_cache,
        }

    # --- sampling ---

    async def generate(self, call: ApiRequest) -> AnyResponse:
        """Handle `POST /inference/v1/generate`: sample responses to a prompt of token ids. `max_tokens` can exceed the
        room in the context. A response that fills the context then ends with the reason `length`, as in vLLM.
        """
        r = await self.reader.parse(call.body, GenerateRequest)
        request_checks.check_model(r.model, self.served)
        request_checks.check_prompt(r.token_ids, self.served, "token_ids")
        request_checks.check_request_id(r.request_id)
        plan = self._plan(call, r.sampling_params, stream=r.stream)
        sequences = self._sequences([r.token_ids], plan)
        builder = self._builder(f"generate-tokens-{r.request_id or new_response_id('')[1:]}", plan, sequences)
        if r.stream:
            stream = streams.Stream(builder, bool(r.return_token_ids), _include_usage(r.stream_options))
            return self._events(streams.generate_events(stream, self.bridge.submit_and_stream(sequences, call.receive)))
        await self.bridge.complete(sequences, call.receive)
        return await self._encode_response(lambda: builder.generate(return_ids=bool(r.return_token_ids)), builder)

    async def completions(self, call: ApiRequest) -> AnyResponse:
        """Handle `POST /v1/completions`. Prompts are texts or token ids."""
        r = await self.reader.parse(call.body, CompletionRequest)
        request_checks.check_model(r.model, self.served)
        plan = self._plan(call, request_checks.sampling_params(r), stream=r.stream)
        self._admit(self.limits.count_prompts(r.prompt), plan)
        sequences = self._sequences(await self.reader.completion(r, plan.deadline), plan)
        builder = self._builder(new_response_id("cmpl"), plan, sequences)
        if r.stream:
            stream = streams.Stream(builder, bool(r.return_token_ids), _include_usage(r.stream_options))
            return self._events(
                streams.completion_events(stream, self.bridge.submit_and_stream(sequences, call.receive))
            )
        await self.bridge.complete(sequences, call.receive)
        return await self._encode_response(lambda: builder.completion(return_ids=bool(r.return_token_ids)), builder)

    async def chat(self, call: ApiRequest) -> AnyResponse:
        """Handle `POST /v1/chat/completions`. The tokenizer's chat template converts the messages to a prompt."""
        r = await self.reader.parse(call.body, ChatRequest)
        request_checks.check_model(r.model, self.served)
        plan = self._plan(call, request_checks.sampling_params(r), stream=r.stream)
        self._admit(1, plan)
        ids = await self.reader.conversation(r, plan.deadline)
        request_checks.check_prompt(ids, self.served, "messages", plan.params.max_tokens)
        sequences = self._sequences([ids], plan)
        builder = self._builder(new_response_id("chatcmpl"), plan, sequences)
        if r.stream:
            stream = streams.Stream(builder, bool(r.return_token_ids), _include_usage(r.stream_options))
            return self._events(streams.chat_events(stream, self.bridge.submit_and_stream(sequences, call.receive)))
        await self.bridge.complete(sequences, call.receive)
        return await self._encode_response(lambda: builder.chat(return_ids=bool(r.return_token_ids)), builder)

    def _admit(self, prompts: int, plan: SamplingPlan) -> None:
        """Check the number of sequences of a request. `prompts`: the number of prompts of the request.

        Raises:
            RequestError: status 400 if the request has more sequences than the server can ever run and queue; status
                503 if the queue has too little room at the moment.
        """
        self.limits.check_sequences(prompts, plan.params.n)
        self.bridge.check_room(prompts * plan.params.n)

    def _sequences(self, prompts: list[list[int]], plan: SamplingPlan) -> list[Sequence]:
        """Check the number of sequences and the number of log-probs in the response. Returns the sequences of all
        prompts.

        Raises:
            RequestError: status 400 if a number is too large; status 503 if the queue has too little room.
        """
        self._admit(len(prompts), plan)
        params, context = plan.params, self.served.max_length
        sampled = sum(min(params.max_tokens or context, context - len(ids)) for ids in prompts) * params.n
        self.limits.check_logprobs(params, sum(map(len, prompts)), sampled)
        return [s for ids in prompts for s in request_checks.sequences(ids, plan, self.served, self.text)]

    async def _encode_response(self, build: Callable[[], object], builder: ResponseBuilder) -> ApiResponse:
        """Returns the result of `build` as a JSON response. A header of the response lists the weight versions. If the
        response is long, `build` and the encoding run in a thread.
        """
        sequences = builder.sequences
        if builder.size <= LONG_RESPONSE:
            body = _encoder.encode(build())
        else:
            body = await self.workers.run(lambda: msgspec.json.encode(build()), math.inf)
        return ApiResponse(body, headers=_versions(*(version for s in sequences for version, _ in s.starts)))

    def _events(self, events: AsyncIterator[bytes]) -> EventStream:
        return EventStream(events, _versions(self.engine.version))

    def _plan(self, call: ApiRequest, params: SamplingParams, *, stream: bool) -> SamplingPlan:
        if params.stop and not self.text.present:
            raise RequestError("stop strings need a tokenizer, but the served model has none", param="stop")
        if stream and params.prompt_logprobs is not None:
            raise RequestError("prompt_logprobs needs stream = false", param="prompt_logprobs")
        return request_checks.make_plan(params, self.served, stream=stream, timeout_s=call.timeout_s)

    def _builder(self, response_id: str, plan: SamplingPlan, sequences: list[Sequence]) -> ResponseBuilder:
        return ResponseBuilder(response_id, self.served.name, plan, self.text, sequences)

    # --- text and information ---

    async def models(self, call: ApiRequest) -> ApiResponse:
        """Handle `GET /v1/models`: return a list that contains only the served model."""
        return _json({"object": "list", "data": [self._card()]})

    async def model(self, call: ApiRequest) -> ApiResponse:
        """Handle `GET /v1/models/{model}`. If `model` is not the served model, the response is 404."""
        request_checks.check_model(call.path_params["model"], self.served)
        return _json(self._card())

    def _card(self) -> dict[str, object]:
        return {
            "id": self.served.name,
            "object": "model",
            "created": self._created,
            "owned_by": "arlarena",
            "root": str(self.directory),
            "parent": None,
            "max_model_len": self.served.max_length,
        }

    async def tokenize(self, call: ApiRequest) -> ApiResponse:
        """Handle `POST /tokenize`: return the token ids of a text or of a conversation."""
        r = await self.reader.parse(call.body, TokenizeRequest)
        request_checks.check_model(r.model, self.served)
        if (r.prompt is None) == (r.messages is None):
            raise RequestError("the request must have either prompt or messages")
        return ApiResponse(await self.reader.tokenize(r, time.monotonic() + (call.timeout_s or math.inf)))

    async def detokenize(self, call: ApiRequest) -> ApiResponse:
        """Handle `POST /detokenize`: return the text of token ids, including special tokens."""
        r = await self.reader.parse(call.body, DetokenizeRequest)
        request_checks.check_model(r.model, self.served)
        return ApiResponse(await self.reader.detokenize(r, time.monotonic() + (call.timeout_s or math.inf)))

    async def prometheus_metrics(self, call: ApiRequest) -> ApiResponse:
        """Handle `GET /metrics`: return the Prometheus metrics."""
        return ApiResponse(self.metrics.exposition(), content_type=b"text/plain; version=0.0.4; charset=utf-8")

    # --- weights ---

    async def weight_info(self, call: ApiRequest) -> ApiResponse:
        """Handle `GET /weight_info`: return the label of the version in service."""
        return ApiResponse(_encoder.encode(WeightInfo(self.engine.version)))

    async def reset_prefix_cache(self, call: ApiRequest) -> ApiResponse:
        """Handle `POST /reset_prefix_cache`: empty the prefix cache. (A weight update also empties the cache.)"""
        await asyncio.wrap_future(self.engine.call(self.engine.forget_prompts))
        return _json({"success": True})

    def _with_metrics(self, route: str, handler: Handler) -> Handler:
        async def measured(call: ApiRequest) -> AnyResponse:
            began = time.perf_counter()
            status = 500
            try:
                await self._turns.wait()
                response = await handler(call)
                status = response.status if isinstance(response, ApiResponse) else 200
                return response
            except RequestError as error:
                status = error.status
                raise
            finally:
                self.metrics.requests.labels(route, str(status)).inc()
                self.metrics.latency.labels(route).observe(time.perf_counter() - began)

        return measured


def _versions(*labels: str) -> Headers:
    return ((VERSIONS_HEADER.encode(), ", ".join(dict.fromkeys(labels)).encode()),)


def _json(value: object) -> ApiResponse:
    return ApiResponse(_encoder.encode(value))


def _include_usage(options: StreamOptions | None) -> bool:
    return options is not None and options.include_usage


def _eos_ids(directory: Path, text: TextCodec) -> frozenset[int]:
    """Returns the ids of the tokens that end a response. They are read from `generation_config.json`, `config.json` and
    the tokenizer's configuration.
    """
    tokenizer_id = text.eos_id()
    ids: set[int] = set() if tokenizer_id is None else {tokenizer_id}
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        if path.is_file():
            value = json.loads(read_text(path)).get("eos_token_id")
            ids |= {value} if isinstance(value, int) else set(value or ())
    return frozenset(ids)


def load_weights(settings: InferenceSettings, log: Logger) -> LoadedVersion:
    """Load the newest intact version in `weights_root`. If there is no intact version, load the setting `model`.

    Raises:
        VersionError: there is nothing to load, or the model cannot be served.
    """
    if settings.weights_root is not None:
        for directory in committed_versions(settings.weights_root):
            try:
                return load_version(directory)
            except VersionError as error:
                log.warning("version_skipped", directory=str(directory), reason=str(error))
    if settings.model is None:
        root = settings.weights_root
        missing = "no weights_root" if root is None else f"no intact version in {root}"
        raise VersionError(f"nothing to serve: there is {missing} and no model: set [inference] model")
    return load_model(settings.model)


def open_serving(
    settings: InferenceSettings, loop: asyncio.AbstractEventLoop, log: Logger, on_death: OnDeath
) -> Serving:
    """Load the model and start its engine. Call this function in a thread, because it takes seconds.

    Raises:
        VersionError: the weights cannot be served, or the setting max_model_len is too large for the model.
    """
    torch.set_num_threads(settings.threads)
    loaded = load_weights(settings, log)
    arch = loaded.arch
    length = settings.max_model_len or min(arch.max_positions, DEFAULT_MAX_LENGTH)
    if length > arch.max_positions:
        raise VersionError(
            f"[inference] max_model_len = {length}, but the model has only {arch.max_positions} positions: lower "
            "max_model_len"
        )
    limits = EngineLimits(
        max_length=length,
        slots=settings.max_slots,
        kv_bytes=settings.kv_cache_mb << 20,
        cache_bytes=settings.prefix_cache_mb << 20,
        prefill_tokens=settings.prefill_tokens_per_step,
    )
    directories = [loaded.directory] if settings.model is None else [loaded.directory, settings.model]
    text = TextCodec.load(*directories)
    bridge = Bridge(loop, settings.max_waiting)
    engine = Engine(arch, loaded.parameters, loaded.label, limits, bridge.deliver, on_death)
    bridge.attach(engine)
    serving = Serving(settings, loaded, text, bridge, engine, log)
    engine.start()
    log.info(
        "model_loaded", directory=str(loaded.directory), version=loaded.label, slots=engine.slots, max_model_len=length
    )
    return serving
