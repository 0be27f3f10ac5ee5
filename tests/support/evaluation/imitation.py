"""A small local server with the wire format of OpenAI, Anthropic or Google. It can inject faults.

    async with serve(Imitation("anthropic", script=lambda messages: "<action>up</action>")) as server:
        ... server.url ... server.counts.requests

As a command, it prints `{"event":"listening",…}` on stdout. `GET /imitation/counts` returns its counts:

    python -m support.evaluation.imitation --kind anthropic --port 0 --script package.module:function \
        --faults 0.2 --rate drop=0.05 --seed 1 --delay 0.05
"""

import argparse
import asyncio
import hashlib
import importlib
import json
import signal
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from aiohttp import web
from support.evaluation.faults import ANSWERED, FAULTS, Fault, FaultRates
from support.evaluation.wire_formats import WIRES, Ending, WireError, WireReply, WireRequest, encoded

from arlarena.proto.telemetry import announce
from arlarena.rollout.evaluation.models.protocol import ModelMessage

# How the model is named on the command line. "compatible": a server with OpenAI's API, used without an SDK.
Kind = Literal["openai", "compatible", "anthropic", "google"]
Script = Callable[[Sequence[ModelMessage]], str]
KEY = "sk-imitation-0123456789"
HUGE = 100_000  # number of characters of a huge reply, and of an HTML page


@dataclass(frozen=True, slots=True)
class Canned:
    """A complete response that a test sets."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


@dataclass(slots=True)
class ImitationCounts:
    """Counts of requests.

    Attributes:
        requests: number of requests.
        running: number of requests that are being handled.
        most_running: maximum of `running`.
        outcomes: fault, "ok" or status of a rejected request → number of requests.
        arrived: digest of the body → number of requests.
        answered: digest of the body → number of replies. If all bodies differ, it is at most 1 for a client that does
            not repeat answered requests.
    """

    requests: int = 0
    running: int = 0
    most_running: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    arrived: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def echo(messages: Sequence[ModelMessage]) -> str:
    """The default script: a reply with the number of messages, which an environment's parser can read."""
    return f"<think>{len(messages)} messages</think><action>up</action>"


class Imitation:
    """An imitation server.

    Attributes:
        key: the only valid key. None: all keys are valid.
        delay_s: seconds before each reply.
        context: maximum number of words of the messages.
        retry_after: value of the header Retry-After of status 429.
        hang_s: duration of the fault "timeout" in seconds.
        reasoning: text of the model's reasoning in each reply.
        cached: number of cached input tokens in each reply.
        url: URL of the server, after its start.
        next: faults or responses for the next requests. After these requests, `faults` determines the faults.
        received: the last 100 requests.
        headers: headers of the last request.
    """

    def __init__(
        self, kind: Kind, *, script: Script = echo, faults: FaultRates | None = None, key: str | None = KEY,
        delay_s: float = 0.0, context: int = 100_000, retry_after: str = "0", hang_s: float = 3600.0,
        reasoning: str = "", cached: int = 0,
    ) -> None:  # fmt: skip
        self.kind, self.script, self.faults = kind, script, faults or FaultRates()
        self.key, self.delay_s, self.context = key, delay_s, context
        self.retry_after, self.hang_s, self.reasoning, self.cached = retry_after, hang_s, reasoning, cached
        self.wire = WIRES[kind]
        self.url = ""
        self.next: deque[Fault | Canned] = deque()
        self.counts = ImitationCounts()
        self.received: deque[WireRequest] = deque(maxlen=100)
        self.headers: dict[str, str] = {}

    @property
    def last(self) -> WireRequest:
        return self.received[-1]

    async def handle(self, http: web.Request) -> web.StreamResponse:
        counts = self.counts
        counts.requests += 1
        counts.running += 1
        counts.most_running = max(counts.most_running, counts.running)
        try:
            return await self._handle(http)
        finally:
            counts.running -= 1

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        body = await http.read()
        digest = hashlib.blake2b(body, digest_size=16).hexdigest()
        times = self.counts.arrived[digest]
        self.counts.arrived[digest] += 1
        self.headers = {name.lower(): value for name, value in http.headers.items()}
        fault = self.next.popleft() if self.next else self.faults.fault(digest, times)
        if isinstance(fault, Canned):
            self.counts.outcomes[str(fault.status)] += 1
            return web.Response(status=fault.status, body=fault.body, headers=fault.headers)
        try:
            request = self._read(json.loads(body), http.match_info.get("model", ""))
        except WireError as error:
            self.counts.outcomes[str(error.status)] += 1
            return self._error(error)
        self.received.append(request)
        self.counts.outcomes[fault or "ok"] += 1
        if fault is not None and fault not in ANSWERED:
            return await self._fail(fault, request, http)
        reply = self._reply(request, fault)
        await asyncio.sleep(self.delay_s)
        self.counts.answered[digest] += 1
        return self._response(request, reply)

    def _read(self, body: dict[str, Any], model: str) -> WireRequest:
        if self.key is not None and (given := self.wire.key(self.headers)) != self.key:
            raise WireError(401, f"Incorrect API key provided: {given}.")
        try:
            request = self.wire.read(body, model, self.headers)
        except (KeyError, TypeError, AttributeError) as error:
            raise WireError(400, f"malformed request: {error!r}") from None
        if request.model.startswith("unknown"):
            raise WireError(404, f"The model {request.model} does not exist.", code="model_not_found")
        if (words := self._words(request)) > self.context:
            kind = "openai" if self.kind == "compatible" else self.kind
            code = "context_length_exceeded" if kind == "openai" else ""
            message = {
                "openai": f"This model's maximum context length is {self.context} tokens, and you have {words}.",
                "anthropic": f"prompt is too long: {words} tokens > {self.context} maximum",
                "google": f"The input token count ({words}) exceeds the maximum number of tokens ({self.context}).",
            }[kind]
            raise WireError(400, message, code=code, param="messages")
        return request

    def _words(self, request: WireRequest) -> int:
        return sum(len(message.text.split()) for message in request.messages)

    def _reply(self, request: WireRequest, fault: Fault | None) -> WireReply:
        endings: dict[Fault | None, Ending] = {"refusal": "refusal", "tool_call": "tool_calls"}
        ending = endings.get(fault, "stop")
        texts = {"refusal": "I cannot help with that.", "empty": "", "tool_call": "", "huge": "x" * HUGE}
        text = texts[fault] if fault in texts else self.script(request.messages)
        for stop in request.stop:
            text = text.partition(stop)[0]
        words = text.split()
        if request.max_tokens is not None and len(words) > request.max_tokens:
            text, ending = " ".join(words[: request.max_tokens]), "length"
        thoughts = len(self.reasoning.split())
        output = len(text.split()) + thoughts
        return WireReply(text, ending, self._words(request), output, thoughts, self.cached, self.reasoning)

    def _response(self, request: WireRequest, reply: WireReply) -> web.Response:
        body = encoded(self.wire.reply(request, reply, self.counts.requests))
        return web.Response(body=body, content_type="application/json")

    def _error(self, error: WireError, **headers: str) -> web.Response:
        body = encoded(self.wire.error(error))
        return web.Response(status=error.status, body=body, content_type="application/json", headers=headers)

    async def _fail(self, fault: Fault, request: WireRequest, http: web.Request) -> web.StreamResponse:
        if fault == "rate_limit":
            return self._error(WireError(429, "Rate limit reached."), **{"Retry-After": self.retry_after})
        if fault == "server_error":
            return self._error(WireError(500, "The server had an error."))
        if fault == "overloaded":
            return self._error(WireError(self.wire.overloaded, "Overloaded"))
        if fault == "html":
            page = f"<html><title>502 Bad Gateway</title>{'<p>try later</p>' * (HUGE // 16)}</html>"
            return web.Response(status=502, text=page, content_type="text/html")
        if fault == "timeout":
            await asyncio.sleep(self.hang_s)
            return self._error(WireError(500, "The client did not give up."))
        body = encoded(self.wire.reply(request, self._reply(request, None), 0))
        half = web.StreamResponse(headers={"content-type": "application/json", "content-length": str(len(body))})
        await half.prepare(http)
        await half.write(body[: len(body) // 2])
        assert http.transport is not None
        http.transport.abort()
        return half

    async def handle_counts(self, _: web.Request) -> web.Response:
        return web.json_response(self.counts.as_json())


@asynccontextmanager
async def serve(imitation: Imitation, port: int = 0) -> AsyncIterator[Imitation]:
    """Run a server in this event loop. At the end of the `with` block, cancel hanging requests."""
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post(imitation.wire.path, imitation.handle)
    app.router.add_get("/imitation/counts", imitation.handle_counts)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        imitation.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield imitation
    finally:
        await runner.cleanup()


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="An imitation of a vendor's API.")
    parser.add_argument("--kind", choices=get_args(Kind), required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--reply", help="text of all replies")
    parser.add_argument("--script", help="package.module:function from messages to a reply")
    parser.add_argument("--faults", type=float, default=0.0, help="sum of the rates of all faults")
    parser.add_argument("--rate", action="append", default=[], metavar="FAULT=RATE", help=f"known: {', '.join(FAULTS)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each reply")
    parser.add_argument("--retry-after", default="0", help="value of the header Retry-After of status 429")
    parser.add_argument("--context", type=int, default=100_000, help="maximum number of words of a request")
    parser.add_argument("--any-key", action="store_true", help=f"accept any key; default: only {KEY}")
    return parser.parse_args(argv)


def from_arguments(args: argparse.Namespace) -> Imitation:
    rates = dict(FaultRates.uniform(args.faults).rates) if args.faults else {}
    for assignment in args.rate:
        fault, _, rate = assignment.partition("=")
        if fault not in FAULTS:
            sys.exit(f"error: --rate {assignment}: unknown fault; known: {', '.join(FAULTS)}")
        rates[fault] = float(rate)
    script: Script = echo
    if args.reply is not None:
        script = lambda _: args.reply  # noqa: E731
    elif args.script:
        module, _, function = args.script.partition(":")
        script = getattr(importlib.import_module(module), function)
    return Imitation(
        args.kind, script=script, faults=FaultRates(rates, args.seed), key=None if args.any_key else KEY,
        delay_s=args.delay, retry_after=args.retry_after, context=args.context,
    )  # fmt: skip


async def run(args: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with serve(from_arguments(args), args.port) as server:
        announce("127.0.0.1", int(server.url.rpartition(":")[2]))
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(run(parsed(sys.argv[1:])))
