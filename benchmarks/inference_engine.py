"""Tokens a second of the embedded engine: its forward pass, in process, and over HTTP, beside transformers' `generate`.

    python benchmarks/inference_engine.py [--hidden 128] [--layers 4] [--rounds 3] [--out
    benchmarks/results/inference_engine.json]

One torch thread everywhere. Each figure is the best of `rounds` (other work on the machine only ever slows a round
down), and every ratio compares figures of the same run. The workload is that of training on small rooms: prompts of
62 tokens, 11 new tokens, many requests in flight, groups of 8 that begin with the same prompt.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from arlarena.inference.embedded.cache import Slots
from arlarena.inference.embedded.engine import Engine, Limits
from arlarena.inference.embedded.model import Model
from arlarena.inference.embedded.sampler import Draw, sample
from arlarena.inference.embedded.sequence import Sequence
from arlarena.inference.weights import LoadedVersion, load_model

VOCABULARY, PROMPT, NEW, GROUP = 150, 62, 11, 8
MAX_LENGTH = 512


def best(rounds: int, function: Callable[[], object]) -> float:
    """Seconds of the fastest of `rounds` calls, after one that warms up."""
    function()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def make_model(directory: Path, hidden: int, layers: int) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        head_dim=32,
        intermediate_size=4 * hidden,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=False,
        initializer_range=0.08,
        eos_token_id=None,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config).eval()
    model.save_pretrained(directory)
    return model


def prompts(count: int, distinct: int) -> list[list[int]]:
    """`count` prompts of which `distinct` differ; new ones at each call, so that no cache knows them."""
    different = [[random.randrange(VOCABULARY) for _ in range(PROMPT)] for _ in range(distinct)]
    return [different[i % distinct] for i in range(count)]


def forward(loaded: LoadedVersion, rounds: int) -> dict[str, float]:
    """Prefill of 33 prompts, and one step (with sampling) at several batch sizes."""
    model = Model(loaded.arch, loaded.parameters, MAX_LENGTH)
    count = 33
    ids = torch.randint(0, VOCABULARY, (count * PROMPT,))
    figures = {"prefill": count * PROMPT / best(rounds * 5, lambda: model.prefill(ids, [PROMPT] * count))}
    slots = Slots(loaded.arch, 256, MAX_LENGTH)
    slots.kv[..., :128, :].zero_()
    for batch in (1, 16, 64, 256):
        newest, positions = torch.randint(0, VOCABULARY, (batch,)), torch.randint(PROMPT, PROMPT + NEW, (batch,))
        draws, indices = [Draw(seed=i) for i in range(batch)], [3] * batch

        def step(newest=newest, positions=positions, draws=draws, indices=indices) -> None:
            sample(model.decode(newest, positions, slots.kv, PROMPT + NEW), draws, indices)

        figures[f"decode_{batch}"] = batch / best(rounds * 5, step)
    return figures


def in_process(loaded: LoadedVersion, rounds: int, count: int, distinct: int) -> float:
    """New tokens a second of the whole engine."""
    finished = threading.Semaphore(0)

    def deliver(news: list[Sequence]) -> None:
        for _ in news:
            finished.release()

    engine = Engine(loaded.arch, loaded.parameters, loaded.label, Limits(MAX_LENGTH), deliver)
    engine.start()

    def one_round() -> None:
        deadline = time.monotonic() + 600
        engine.submit(
            [
                Sequence(ids, Draw(seed=i), NEW, frozenset(), frozenset(), deadline)
                for i, ids in enumerate(prompts(count, distinct))
            ]
        )
        for _ in range(count):
            finished.acquire()

    seconds = best(rounds, one_round)
    engine.stop()
    return count * NEW / seconds


@contextlib.contextmanager
def server(directory: Path) -> Iterator[str]:
    """The service as its own process."""
    command = [sys.executable, "-m", "arlarena.inference", "--model", str(directory), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
    finally:
        process.terminate()
        process.wait(20)


async def _ready(session: aiohttp.ClientSession, url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        async with session.get(url + "/health") as response:
            if response.status == 200:
                return
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{url} did not become healthy")


async def _requests(session: aiohttp.ClientSession, url: str, count: int, distinct: int, in_flight: int) -> None:
    gate = asyncio.Semaphore(in_flight)

    async def one(ids: list[int], seed: int) -> None:
        params = {"max_tokens": NEW, "seed": seed, "logprobs": 0, "ignore_eos": True}
        async with gate, session.post(url, json={"token_ids": ids, "sampling_params": params}) as response:
            body = await response.json()
            assert len(body["choices"][0]["token_ids"]) == NEW, body

    await asyncio.gather(*(one(ids, seed) for seed, ids in enumerate(prompts(count, distinct))))


def over_http(directory: Path, rounds: int, count: int, distinct: int, in_flight: int) -> float:
    """New tokens a second through `/inference/v1/generate`, with the client on the same machine."""

    async def measure() -> float:
        connector = aiohttp.TCPConnector(limit=in_flight)
        async with aiohttp.ClientSession(connector=connector) as session:
            await _ready(session, url)
            seconds = []
            for _ in range(rounds + 1):
                began = time.perf_counter()
                await _requests(session, url + "/inference/v1/generate", count, distinct, in_flight)
                seconds.append(time.perf_counter() - began)
            return count * NEW / min(seconds[1:])

    with server(directory) as url:
        return asyncio.run(measure())


def transformers_generate(model: Qwen3ForCausalLM, rounds: int, batch: int) -> float:
    """New tokens a second of `generate`, prompts of one length, so that nothing is padded."""

    def one_round() -> None:
        ids = torch.tensor(prompts(batch, max(1, batch // GROUP)))
        model.generate(ids, max_new_tokens=NEW, do_sample=True, top_k=0, attention_mask=torch.ones_like(ids))

    return batch * NEW / best(rounds, one_round)


def run(hidden: int, layers: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        model = make_model(directory, hidden, layers)
        loaded = load_model(directory)
        engine = {
            "distinct_prompts_256": in_process(loaded, rounds, 256, 256),
            "groups_of_8_256": in_process(loaded, rounds, 256, 256 // GROUP),
        }
        http = {f"groups_of_8_in_flight_{n}": over_http(directory, rounds, 1024, 1024 // GROUP, n) for n in (64, 256)}
        generate = {f"batch_{n}": transformers_generate(model, rounds, n) for n in (64, 256)}
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "forward_tokens_per_s": forward(loaded, rounds),
            "engine_new_tokens_per_s": engine,
            "http_new_tokens_per_s": http,
            "transformers_generate_new_tokens_per_s": generate,
            "ratios": {
                "engine_over_generate_256": engine["groups_of_8_256"] / generate["batch_256"],
                "http_over_generate_256": http["groups_of_8_in_flight_256"] / generate["batch_256"],
                "http_over_engine_256": http["groups_of_8_in_flight_256"] / engine["groups_of_8_256"],
            },
        }


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "inference_engine.json")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    before = os.getloadavg()[0]
    figures = run(flags.hidden, flags.layers, flags.rounds)
    machine = {"cores": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version()}
    record = {
        "workload": {"prompt": PROMPT, "new": NEW, "group": GROUP, "hidden": flags.hidden, "layers": flags.layers},
        "machine": {**machine, "load_before": before},
        **figures,
    }
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(json.dumps(rounded(record), indent=2) + "\n")
    print(flags.out.read_text())


if __name__ == "__main__":
    main()
