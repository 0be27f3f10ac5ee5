"""Measures the time from an optimiser step to the first token of the new weights, and the size of deltas.

    python -m benchmarks.weights.speed --out benchmarks/results/weight_push.json

The trainer's code pushes weights to a real policy server: the trainer writes a version directory, and a publisher lets
the server load the version. For comparison, each round also writes the same weights with `safetensors.torch.save_file`,
reads them with `load_file` and copies them from the memory map. Every push over a disk needs at least this time.
Trainer and server each use one thread.

A delta is a file with the changes of the weights. In this benchmark, the changes come from one AdamW step with random
gradients and a learning rate of 1e-6. The size of the delta is measured for weights in float32 and in bfloat16. GPUs
usually serve weights in bfloat16.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from arlarena.proto.telemetry import Logger
from arlarena.proto.versions.delta import write_delta
from arlarena.trainer.weights.probe import Probe
from arlarena.trainer.weights.push import Publisher
from arlarena.trainer.weights.transports import SharedDirectory, Transport
from arlarena.trainer.weights.versions import Version, VersionStore
from benchmarks.support.policy_server import policy_server
from benchmarks.support.results import finish

VOCABULARY = 512
MAX_RATIO = 3.0  # maximum time of a push, relative to writing and reading the same weights
LEARNING_RATE = 1e-6


def make_model(directory: Path, hidden: int) -> Qwen3ForCausalLM:
    """Build a Qwen3 model with four layers and tied embeddings. Write it and a tokenizer into `directory`."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=4, num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64, head_dim=32, intermediate_size=4 * hidden, tie_word_embeddings=True,
        max_position_embeddings=1024, eos_token_id=0, bos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(directory)
    inner = Tokenizer(models.WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="0").save_pretrained(directory)
    return model


def bare(weights: dict[str, Tensor], file: Path) -> float:
    """Write the weights into `file`, and read and copy them. Return the duration in seconds."""
    began = time.perf_counter()
    save_file(weights, file)
    copies = {name: value.clone() for name, value in load_file(file).items()}
    seconds = time.perf_counter() - began
    assert all(copies[name].equal(value) for name, value in weights.items())
    return seconds


class Trainer:
    """The parts of a trainer that a push needs: model, optimiser, versions and publisher."""

    def __init__(self, model: Qwen3ForCausalLM, store: VersionStore, publisher: Publisher) -> None:
        self.model, self.store, self.publisher = model, store, publisher
        self.probe = Probe.spread(model.config.vocab_size, 1e-3)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def learn(self, seed: int) -> None:
        """Take one optimiser step with random gradients."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        self.optimizer.step()

    def log_probs(self, prompt: Any, response: Any) -> list[float]:
        """Return the log-probs of the response tokens. With them, the server checks its weights (see `Probe`)."""
        ids = torch.tensor([[*prompt, *response]])
        with torch.inference_mode():
            table = torch.log_softmax(self.model(ids).logits[0, len(prompt) - 1 : -1], -1)
        values: list[float] = table[range(len(response)), list(response)].tolist()
        return values

    def write(self, step: int) -> Version:
        """Write the current weights as the version of the training step `step`. Return the version."""
        weights = {name: value.detach() for name, value in self.model.state_dict().items()}
        return self.store.write(self.model, weights, step, lambda: self.probe.compute(self.log_probs))


def publisher_of(url: str, transport: Transport, token: str | None = None) -> Publisher:
    """Return the trainer's publisher for one policy server. `benchmarks.old_and_new` uses this function."""
    return Publisher([url], transport, token=token, retry_timeout_s=30, log=Logger("bench"))


async def first_token(session: aiohttp.ClientSession, url: str, version: str) -> None:
    """Request one token from the policy server at `url`, and check that `version` sampled it."""
    body = {"token_ids": [random.randrange(100) for _ in range(8)], "sampling_params": {"max_tokens": 1}}
    async with session.post(f"{url}/inference/v1/generate", json=body) as reply:
        (choice,) = (await reply.json())["choices"]
    assert [span["version"] for span in choice["weight_versions"]] == [version], choice


async def measure(model: Qwen3ForCausalLM, folder: Path, rounds: int) -> dict[str, Any]:
    """In each round, measure a push, and then a plain write and read of the weights. Return the measurements.

    Two warm-up rounds come before the `rounds` measured rounds.
    """
    names = {name for name, _ in model.named_parameters()}  # contains tied weights once, like the file of a version
    store = VersionStore(folder / "weights", folder / "model", "bench", keep=3)
    pushed, plain, parts = [], [], []
    settings = {"model": str(folder / "model"), "weights_root": str(folder / "weights"), "max_model_len": 256}
    with policy_server(folder, **settings) as (url, _):
        trainer = Trainer(model, store, publisher_of(url, SharedDirectory()))
        async with aiohttp.ClientSession() as session:
            for step in range(1, rounds + 3):
                trainer.learn(step)
                began = time.perf_counter()
                version = trainer.write(step)
                written_at = time.perf_counter()
                await trainer.publisher.push(version)
                pushed_at = time.perf_counter()
                await first_token(session, url, str(version.version))
                token_at = time.perf_counter()
                store.forget_old()
                if step > 2:
                    pushed.append(token_at - began)
                    parts.append((written_at - began, pushed_at - written_at, token_at - pushed_at))
                    weights = {name: value for name, value in model.state_dict().items() if name in names}
                    plain.append(bare(weights, folder / "bare.safetensors"))
    medians = [round(1e3 * statistics.median(column), 2) for column in zip(*parts, strict=True)]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "step_to_first_token_ms_p50": 1e3 * statistics.median(pushed),
        "bare_write_and_read_ms_p50": 1e3 * statistics.median(plain),
        "ratio": statistics.median(pushed) / statistics.median(plain),
        "of_it_ms_p50": dict(zip(("write", "push", "token"), medians, strict=True)),
        "bytes": deltas(model, trainer, folder),
    }


def deltas(model: Qwen3ForCausalLM, trainer: Trainer, folder: Path) -> dict[str, Any]:
    """Take one optimiser step. Return dtype → sizes in bytes: of the complete weights, and of the step's delta.

    `share` is the size of the delta divided by the size of the weights.
    """
    sizes = {}
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    trainer.learn(999)
    for kind in (torch.float32, torch.bfloat16):
        for name, state in (("old", before), ("new", model.state_dict())):
            save_file({key: value.to(kind).clone() for key, value in state.items()}, folder / name)
        with (folder / "delta").open("wb") as out:
            size = write_delta(folder / "old", folder / "new", out)
        full = (folder / "new").stat().st_size
        sizes[str(kind).removeprefix("torch.")] = {"full": full, "delta": size, "share": size / full}
    return sizes


def main() -> int:
    """Measure models of all sizes, check the ratios and write the result. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes = []
    for hidden in args.hidden:
        with tempfile.TemporaryDirectory(prefix="arlarena-push-", dir=Path.cwd()) as folder:
            model = make_model(Path(folder) / "model", hidden)
            sizes.append(asyncio.run(measure(model, Path(folder), args.rounds)))
            print(json.dumps(sizes[-1]), file=sys.stderr)
    return finish(
        {"learning_rate": LEARNING_RATE, "sizes": sizes, "passed": all(s["ratio"] <= MAX_RATIO for s in sizes)},
        args.out,
    )


if __name__ == "__main__":
    sys.exit(main())
