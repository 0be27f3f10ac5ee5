"""Pushes weights under load while replicas are killed, and checks the version of each sampled token.

    python -m benchmarks.weights.push_soak --pushes 200 --out benchmarks/results/push_soak.json

The policy of push k always samples the token k (modulo the vocabulary), so each token shows its version. The trainer's
code writes the versions and pushes them to a gateway with two replicas. At the same time, clients send requests with
deadlines (some with streaming), and random replicas are killed with SIGKILL.

* `--transport shared`: the replicas are engines that the gateway starts. They share a disk with the trainer.
* `--transport http`: the replicas are separate policy servers. They get the weights over HTTP. A killed server restarts
  with an empty disk.

A response contains a list of spans: the positions of tokens, and the version that sampled them. For each response,
these claims are checked:

* Each token of a span is the token that the span's version always samples.
* No span is older than the last push that had ended when the request was sent. So no replica serves old weights after a
  restart.
* The response arrived within the deadline.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import psutil
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from arlarena.proto.telemetry import Logger
from arlarena.proto.versions.directory import ManifestProbe
from arlarena.trainer.weights.probe import Probe
from arlarena.trainer.weights.push import Publisher
from arlarena.trainer.weights.transports import Http, SharedDirectory, Transport
from arlarena.trainer.weights.versions import Version, VersionStore
from benchmarks.support.policy_server import policy_server, write_config
from benchmarks.support.ports import free_port
from benchmarks.support.results import finish

VOCABULARY, HIDDEN, LAYERS, REPLICAS = 256, 64, 2, 2
CLIENTS, TOKENS, PROMPT = 12, 48, 32
SLACK_S = 0.5  # allowed delay after the deadline; a busy client receives responses late
TOKEN = "the token of the administrator"
SIZES = {"admin_token": TOKEN, "max_model_len": 256, "max_slots": 32, "health_interval_s": 0.5}


def policy(token: int) -> Qwen3ForCausalLM:
    """Build a policy that always samples `token`.

    The layers add 0 to the embedding. All rows of the output head are zero except the row of `token`.
    """
    torch.manual_seed(token)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, intermediate_size=128, max_position_embeddings=512,
        tie_word_embeddings=False, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    model.eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1.0)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        model.lm_head.weight[token] = 1.0
    return model


def log_probs(model: Qwen3ForCausalLM, prompt: list[int], response: list[int]) -> list[float]:
    """Compute the response's log-probs with transformers."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    values: list[float] = torch.log_softmax(logits, -1)[range(len(response)), response].tolist()
    return values


def save_tokenizer(folder: Path) -> None:
    """Write a tokenizer into `folder`. Its tokens are numbers. Policy servers require a tokenizer."""
    inner = Tokenizer(models.WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="0").save_pretrained(folder)


class Soak:
    """The clients, and the counts of their requests and responses.

    Attributes:
        url: URL of the gateway.
        rng: source of all random choices.
        pushes: version → (number of its push, token that the version always samples).
        last_push: number of the last push that has ended.
        counts: kind → number of responses or failed requests.
        wrong: descriptions of wrong responses.
        max_delay_s: maximum delay of the end of a request after its deadline; 0 if all requests ended in time.
        done: whether the clients must stop.
    """

    def __init__(self, url: str, seed: int) -> None:
        self.url, self.rng = url, random.Random(seed)
        self.pushes: dict[str, tuple[int, int]] = {}
        self.last_push = 0
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.max_delay_s = 0.0
        self.done = False

    async def client(self, session: aiohttp.ClientSession, name: int) -> None:
        """Send requests one after another until `done` is true. `name`: number of the client."""
        while not self.done:
            await self.ask(session, f"session-{name}-{self.rng.randrange(3)}", stream=self.rng.random() < 0.2)

    async def ask(self, session: aiohttp.ClientSession, name: str, *, stream: bool) -> None:
        """Send one request with a random deadline, and check the response. `name`: id of the request's session."""
        limit, last_push, began = self.rng.uniform(3.0, 8.0), self.last_push, time.monotonic()
        body = {
            "token_ids": [self.rng.randrange(VOCABULARY) for _ in range(PROMPT)],
            "sampling_params": {"max_tokens": TOKENS, "logprobs": 0, "ignore_eos": True},
            "stream": stream,
        }
        headers = {"x-request-timeout-s": f"{limit:.3f}", "x-session-id": name}
        try:
            async with session.post(f"{self.url}/inference/v1/generate", json=body, headers=headers) as reply:
                text = await reply.text()
        except (aiohttp.ClientError, OSError) as error:
            self.counts[f"no answer: {type(error).__name__}"] += 1
            return
        finally:
            self.max_delay_s = max(self.max_delay_s, time.monotonic() - began - limit)
        if reply.status != 200:
            self.counts[f"status {reply.status}"] += 1
            return
        self.check(*(_streamed_response(text) if stream else _response(text)), last_push)

    def check(self, ids: list[int], spans: list[dict[str, Any]] | None, last_push: int) -> None:
        """Check the tokens and the spans of a response, and add any fault to `wrong`.

        Args:
            ids: the sampled token ids.
            spans: the spans of the response. None: the stream of the response ended early.
            last_push: number of the last push that had ended when the request was sent.
        """
        if spans is None:
            self.counts["stream cut by a kill"] += 1  # the last event of such a stream is an error
            return
        self.counts["answers"] += 1
        self.counts["answers that span a push"] += len(spans) > 1
        if len(ids) != TOKENS or [s["start"] for s in spans] != [0, *(s["end"] for s in spans[:-1])]:
            self.wrong.append(f"{len(ids)} tokens in {spans}")
        for span in spans:
            push, token = self.pushes.get(span["version"], (-1, -1))
            if set(ids[span["start"] : span["end"]]) != {token}:
                self.wrong.append(
                    f"{span['version']} samples {token}, but its span has {ids[span['start'] : span['end']]}"
                )
            if push < last_push:
                self.wrong.append(f"{span['version']} is of push {push}, but push {last_push} had ended")


def _response(text: str) -> tuple[list[int], list[dict[str, Any]]]:
    (choice,) = json.loads(text)["choices"]
    return choice["token_ids"], choice["weight_versions"]


def _streamed_response(text: str) -> tuple[list[int], list[dict[str, Any]] | None]:
    ids: list[int] = []
    spans = None
    for line in text.splitlines():
        if line.startswith("data: {") and "choices" in (event := json.loads(line[6:])):
            for choice in event["choices"]:
                ids += choice["token_ids"]
                spans = choice["weight_versions"] or spans
    return ids, spans


async def push_all(soak: Soak, store: VersionStore, publisher: Publisher, pushes: int, pause_s: float) -> list[float]:
    """Write and push `pushes` versions one after another. Return the duration of each push in seconds.

    `pause_s`: mean pause between two pushes in seconds.
    """
    probe, seconds = Probe.spread(VOCABULARY, 1e-3), []
    for step in range(1, pushes + 1):
        version = write(store, probe, step)
        soak.pushes[str(version.version)] = (step, step % VOCABULARY)
        pushed = await publisher.push(version)
        store.forget_old()
        soak.last_push = step
        seconds.append(pushed.seconds)
        await asyncio.sleep(soak.rng.uniform(0, 2 * pause_s))
    return seconds


def write(store: VersionStore, probe: Probe, step: int) -> Version:
    """Write the version directory of push `step`. The policy of this version always samples the same token."""
    model = policy(step % VOCABULARY)

    def manifest_probe() -> ManifestProbe:
        return probe.compute(lambda prompt, response: log_probs(model, list(prompt), list(response)))

    return store.write(model, model.state_dict(), step, manifest_probe)


class GatewayEngines:
    """Engines that the gateway starts. They share a disk with the trainer."""

    def __init__(self, weights: Path) -> None:
        self.settings = {"weights_root": str(weights), "replicas": REPLICAS}

    def kill(self, rng: random.Random, gateway: psutil.Process) -> bool:
        """Kill a random engine, or the process that starts and stops it. Return False if no such process runs."""
        processes = [process for process in gateway.children(recursive=True) if "--uds" in _command_line(process)]
        if not processes:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            rng.choice(processes).send_signal(signal.SIGKILL)
        return True


class SeparateServers:
    """Policy servers with separate disks. A killed server restarts immediately, with an empty disk."""

    def __init__(self, folder: Path, weights: Path, first: Path, log: TextIO) -> None:
        self._folder, self._first, self._log = folder, first, log
        self._ports = [free_port() for _ in range(REPLICAS)]
        self._running = [self._start(index) for index in range(REPLICAS)]
        self.settings = {
            "weights_root": str(weights),
            "replica_urls": [f"http://127.0.0.1:{port}" for port in self._ports],
        }

    def kill(self, rng: random.Random, gateway: psutil.Process) -> bool:
        """Kill a random server and start it again. Return True."""
        index = rng.randrange(REPLICAS)
        self._running[index].kill()
        self._running[index].wait()
        self._running[index] = self._start(index)
        return True

    def stop(self) -> None:
        """Terminate all servers, and wait until they have ended."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(timeout=60)

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        disk = self._folder / f"pod-{index}"
        shutil.rmtree(disk, ignore_errors=True)
        disk.mkdir()
        settings = {**SIZES, "model": str(self._first), "weights_root": str(disk), "port": self._ports[index]}
        write_config(disk / "pod.toml", settings)
        command = [sys.executable, "-m", "arlarena.inference", "--config", str(disk / "pod.toml")]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._log)


async def kill_some(soak: Soak, kill: Callable[[random.Random], bool], kills: int, every_s: float) -> int:
    """Kill a random replica about every `every_s` seconds, until there are `kills` kills. Return the number of kills.

    `kill`: function that kills a replica, and returns whether it killed a process.
    """
    killed = 0
    while killed < kills and not soak.done:
        await asyncio.sleep(soak.rng.uniform(0.5, 1.5) * every_s)
        killed += await asyncio.to_thread(kill, soak.rng)
    return killed


def _command_line(process: psutil.Process) -> list[str]:
    line: list[str] = []
    with contextlib.suppress(psutil.Error):
        line = process.cmdline()
    return line


async def until_ready(session: aiohttp.ClientSession, url: str, version: str | None, limit_s: float = 120.0) -> None:
    """Wait until every replica of the gateway is ready and serves `version`. With None, any version is accepted.

    Raises:
        SystemExit: not all replicas are ready after `limit_s` seconds.
    """
    deadline = time.monotonic() + limit_s
    while True:
        async with session.get(f"{url}/ready") as reply:
            replicas = (await reply.json())["replicas"] if reply.status == 200 else []
        if len(replicas) == REPLICAS and all(
            one["state"] == "ready" and version in (None, one["weight_version"]) for one in replicas
        ):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"error: not all replicas became ready: {replicas}")
        await asyncio.sleep(0.1)


async def soak_service(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the pushes, the clients and the kills at the same time. Return the result of the benchmark."""
    first, server_folder = folder / "first", folder / "weights"
    trainer_folder = folder / "sent" if args.transport == "http" else server_folder
    for path in (first, server_folder):
        path.mkdir()
    save_tokenizer(first)
    policy(0).save_pretrained(first)
    store = VersionStore(trainer_folder, first, "soak", keep=4)
    transport: Transport = Http(20) if args.transport == "http" else SharedDirectory()
    with contextlib.ExitStack() as stack:
        replicas: GatewayEngines | SeparateServers = GatewayEngines(server_folder)
        if args.transport == "http":
            replicas = SeparateServers(
                folder, server_folder, first, stack.enter_context((folder / "pods.log").open("w"))
            )
            stack.callback(replicas.stop)
        url, gateway = stack.enter_context(policy_server(folder, model=str(first), **SIZES, **replicas.settings))
        publisher = Publisher([url], transport, token=TOKEN, retry_timeout_s=120.0, log=Logger("soak", "warning"))
        soak = Soak(url, args.seed)
        kill = functools.partial(replicas.kill, gateway=gateway)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await until_ready(session, url, None)
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                # The clients start after the first push, because the initial weights have no number of a push.
                await push_all(soak, store, publisher, 1, 0.0)
                soak.last_push = 1
                tasks = [group.create_task(soak.client(session, name)) for name in range(CLIENTS)]
                killer = group.create_task(kill_some(soak, kill, args.kills, args.pushes * args.pause / args.kills))
                seconds = await push_all(soak, store, publisher, args.pushes, args.pause)
                await killer
                await until_ready(session, url, max(soak.pushes, key=lambda label: soak.pushes[label]))
                soak.done = True
                await asyncio.gather(*tasks)
        left = gateway.children(recursive=True)
    return report(args, soak, seconds, killer.result(), time.monotonic() - began, left)


def report(
    args: argparse.Namespace,
    soak: Soak,
    seconds: list[float],
    killed: int,
    wall_s: float,
    children: list[psutil.Process],
) -> dict[str, Any]:
    """Return the result. `seconds`: duration of each push. `children`: the gateway's processes, which must end."""
    _, alive = psutil.wait_procs(children, timeout=5.0)
    failed = sum(count for kind, count in soak.counts.items() if kind.startswith(("status", "no answer")))
    checks = {
        "every token is its version's": not soak.wrong,
        "no answer after its deadline": soak.max_delay_s < SLACK_S,
        "fewer than 1 % of the requests failed": failed < 0.01 * soak.counts["answers"],
        "some answers span a push": soak.counts["answers that span a push"] > 0,
        "replicas were killed": killed == args.kills,
        "no process is left": not alive,
    }
    return {
        "transport": args.transport,
        "pushes": len(seconds),
        "push_seconds_p50": sorted(seconds)[len(seconds) // 2],
        "push_seconds_max": max(seconds),
        "killed": killed,
        "wall_s": round(wall_s, 1),
        "requests": dict(soak.counts),
        "latest_after_deadline_s": round(soak.max_delay_s, 3),
        "wrong": soak.wrong[:10],
        "checks": checks,
        "passed": all(checks.values()),
    }


def main() -> int:
    """Push weights under load, check the responses and write the result. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pushes", type=int, default=200, help="number of pushes")
    parser.add_argument("--kills", type=int, default=20, help="number of kills of replicas")
    parser.add_argument("--pause", type=float, default=0.5, help="mean seconds between two pushes")
    parser.add_argument("--transport", choices=("shared", "http"), default="http")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="arlarena-soak-") as folder:
        result = asyncio.run(soak_service(args, Path(folder)))
    return finish(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
