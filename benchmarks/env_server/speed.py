"""Compares the steps per second of our environment server and of OpenEnv's server, with the same Sokoban environment.

    make setup EXTRA=openenv && python -m benchmarks.env_server.speed --out benchmarks/results/env_server.json

There are 256 sessions. Each round measures all cases, one after another, so a busy machine slows all cases equally. The
medians over the rounds are compared. The cases:

* `openenv_websocket`: OpenEnv 0.10's server, one socket per session.
* `websocket`: our server, with the same client and the same frames.
* `websocket_workers_2`: `websocket` with `--workers 2`.
* `batch`: our server, with two concurrent batches (`/v1/batch`). Each batch has half of the sessions.
* `batch_workers_2`: `batch` with `--workers 2`. The workers divide the sessions of a batch. Moving a reply between
  workers costs about as much as a step of this environment, so this case has no required speed.

The client is one process with one event loop. The sockets do not wait for each other. After the first round, all
servers have all rooms in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from benchmarks.support.paths import ROOT
from benchmarks.support.ports import free_port
from benchmarks.support.results import MACHINE

OPENENV = ROOT / ".venv-openenv" / "bin" / "python"
# case → (case to compare with, required ratio of the speeds)
WANTED = {
    "websocket": ("openenv_websocket", 2.0),
    "batch": ("openenv_websocket", 10.0),
    "websocket_workers_2": ("websocket", 1.0),
}
ACTIONS = ("up", "left", "down", "right")
BATCHES = 2  # number of concurrent batches; with two, client and server work at the same time
ENCODE, DECODE = msgspec.json.encode, msgspec.json.decode


@contextlib.contextmanager
def server(command: list[str], url: str, **variables: str) -> Iterator[str]:
    """Start a server with `command`. When it is ready, yield `url`. Terminate the server at the end of the block.

    `variables`: further environment variables of the server.
    """
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.DEVNULL)
    try:
        asyncio.run(wait_until_ready(url, process))
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


async def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server replies to `/health`.

    Raises:
        SystemExit: the server ended, or did not reply within 60 s.
    """
    async with aiohttp.ClientSession() as session:
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit(f"error: the server ended with exit status {process.returncode}: {process.args!r}")
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url + "/health") as reply:
                    if reply.status == 200:
                        return
            await asyncio.sleep(0.1)
    raise SystemExit(f"error: {url} did not answer within 60 s")


async def websocket_rate(url: str, sessions: int, seconds: float) -> float:
    """Return the steps per second over WebSockets, with one socket per session.

    If an episode has ended, its session is reset. The duration includes the resets, but the number of steps does not.
    """
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        sockets = await asyncio.gather(*(session.ws_connect(url + "/ws") for _ in range(sessions)))
        await asyncio.gather(*(ask(one, "reset", {"seed": seed}) for seed, one in enumerate(sockets)))
        ends = time.perf_counter() + seconds
        counts = await asyncio.gather(*(play(one, seed, ends) for seed, one in enumerate(sockets)))
        rate = sum(counts) / seconds
        await asyncio.gather(*(one.close() for one in sockets))
    return rate


async def ask(one: aiohttp.ClientWebSocketResponse, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """Send one frame of the type `kind` over a WebSocket. Return the observation in the reply."""
    await one.send_str(ENCODE({"type": kind, "data": data}).decode())
    answer = DECODE((await one.receive()).data)
    assert answer["type"] == "observation", answer
    observed: dict[str, Any] = answer["data"]
    return observed


async def play(one: aiohttp.ClientWebSocketResponse, seed: int, ends: float) -> int:
    """Step in one session over a WebSocket until `time.perf_counter()` is `ends`. Return the number of steps.

    `seed`: seed of each reset after the end of an episode.
    """
    steps = 0
    while time.perf_counter() < ends:
        seen = await ask(one, "step", {"text": ACTIONS[steps % 4]})
        steps += 1
        if seen["done"]:
            await ask(one, "reset", {"seed": seed})
    return steps


async def batch_rate(url: str, sessions: int, seconds: float) -> float:
    """Return the steps per second over `/v1/batch`, with `BATCHES` concurrent batches."""
    async with aiohttp.ClientSession() as session:
        share = sessions // BATCHES
        ends = time.perf_counter() + seconds
        counts = await asyncio.gather(*(batches(session, url, share, number, ends) for number in range(BATCHES)))
    return sum(counts) / seconds


async def batches(session: aiohttp.ClientSession, url: str, sessions: int, number: int, ends: float) -> int:
    """Open the sessions of one batch, and step them until `time.perf_counter()` is `ends`. Return the number of steps.

    `sessions`: number of sessions of the batch. `number`: number of the batch.
    """
    seeds = [number * sessions + seed for seed in range(sessions)]
    opened = await post(session, url + "/v1/sessions", {"count": sessions, "reset": [{"seed": seed} for seed in seeds]})
    names = [one["session_id"] for one in opened["sessions"]]
    over, steps, rounds = [False] * sessions, 0, 0
    while time.perf_counter() < ends:
        items = [
            {"session_id": name, "op": "reset", "seed": seed}
            if ended
            else {"session_id": name, "op": "step", "action": {"text": ACTIONS[rounds % 4]}}
            for name, seed, ended in zip(names, seeds, over, strict=True)
        ]
        results = (await post(session, url + "/v1/batch", {"items": items}))["results"]
        assert all(result["ok"] for result in results)
        steps += over.count(False)
        over = [result["done"] for result in results]
        rounds += 1
    for name in names:
        async with session.delete(f"{url}/v1/sessions/{name}") as reply:
            assert reply.status == 204
    return steps


async def post(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send a POST request with the JSON `body`. Return the JSON of the reply. The status must be 200."""
    async with session.post(url, data=ENCODE(body)) as reply:
        answer: dict[str, Any] = DECODE(await reply.read())
        assert reply.status == 200, answer
        return answer


def our_server(workers: int) -> contextlib.AbstractContextManager[str]:
    """Start our environment server with Sokoban and `workers` worker processes. Yield its URL."""
    port = free_port()
    command = [sys.executable, "-m", "arlarena.env_server", "sokoban", "--port", str(port), "--capacity", "1024"]
    return server([*command, "--workers", str(workers)], f"http://127.0.0.1:{port}")


def openenv_server() -> contextlib.AbstractContextManager[str]:
    """Start OpenEnv's server with our Sokoban environment. Yield its URL."""
    port = free_port()
    path = os.pathsep.join(str(ROOT / part) for part in ("proto", "environments/sdk", "environments/sokoban"))
    command = [str(OPENENV), "-m", "benchmarks.env_server.openenv_server", str(port)]
    return server(command, f"http://127.0.0.1:{port}", PYTHONPATH=path)


def measure(sessions: int, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Measure all cases in each round. Return case → steps per second of each round."""
    rates: dict[str, list[float]] = defaultdict(list)
    with our_server(1) as one, our_server(2) as two, openenv_server() as theirs:
        cases = {
            "openenv_websocket": (websocket_rate, theirs),
            "websocket": (websocket_rate, one),
            "websocket_workers_2": (websocket_rate, two),
            "batch": (batch_rate, one),
            "batch_workers_2": (batch_rate, two),
        }
        for number in range(rounds):
            for name, (rate, url) in cases.items():
                rates[name].append(asyncio.run(rate(url, sessions, seconds)))
            print(f"round {number + 1}: " + ", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in rates.items()))
    return rates


def main() -> int:
    """Measure all cases, compare their speeds and write the result. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not OPENENV.exists():
        raise SystemExit("error: OpenEnv's server is not installed: run `make setup EXTRA=openenv`")
    rates = measure(args.sessions, args.seconds, args.rounds)
    medians = {name: round(statistics.median(found), 1) for name, found in rates.items()}
    ratios = {name: round(medians[name] / medians[peer], 2) for name, (peer, _) in WANTED.items()}
    result = {
        "schema": 2,
        "machine": MACHINE,
        "sessions": args.sessions,
        "steps_per_s": medians,
        "rounds": {name: [round(rate, 1) for rate in found] for name, found in rates.items()},
        "ratios": {name: {"to": WANTED[name][0], "times": ratio} for name, ratio in ratios.items()},
        "passed": all(ratios[name] >= wanted for name, (_, wanted) in WANTED.items()),
    }
    for name, (peer, wanted) in WANTED.items():
        print(f"{name}: {medians[name]:,.0f} steps/s, {ratios[name]:.2f} times {peer} (required: at least {wanted:g})")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
