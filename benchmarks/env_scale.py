"""Thousands of sessions at once on one environment server: errors, latency of a step, memory, and what is left after.

    python benchmarks/env_scale.py --sessions 4096 --seconds 60 --out benchmarks/results/env_scale.json

Every session is a player of its own that steps as soon as it was answered, through the ordinary client, which lets
players share requests. Latency is what a player waits, client included; memory is the server's resident set.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from arlarena.client.environments import EnvironmentClient, Session
from arlarena.client.errors import ServiceError
from arlarena.client.transport import Timeouts

ACTIONS = ("up", "left", "down", "right", "still")
CHUNK = 256  # sessions opened by one request


@contextlib.contextmanager
def server(capacity: int) -> Iterator[tuple[str, psutil.Process]]:
    """Our server on a free port; yields its URL and its process."""
    command = [sys.executable, "-m", "arlarena.env_server", "sokoban", "--port", "0", "--capacity", str(capacity)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        announced = json.loads(process.stdout.readline())
        yield f"http://{announced['host']}:{announced['port']}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=30)


class Players:
    """What all players saw."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.errors: list[str] = []
        self.episodes = 0

    async def play(self, session: Session, number: int, ends: float) -> None:
        """Play one episode after another until the time is over."""
        steps = 0
        try:
            state = await session.reset(split="train", index=number % 512)
            while time.perf_counter() < ends:
                if state.done:
                    self.episodes += 1
                    state = await session.reset(split="train", index=(number + self.episodes) % 512)
                    continue
                begun = time.perf_counter()
                state = await session.step(ACTIONS[(steps + number) % len(ACTIONS)])
                self.latencies.append(time.perf_counter() - begun)
                steps += 1
        except ServiceError as error:
            self.errors.append(str(error))


def megabytes(process: psutil.Process) -> float:
    """Resident memory."""
    return float(process.memory_info().rss) / 2**20


async def hold(url: str, process: psutil.Process, sessions: int, seconds: float) -> dict[str, Any]:
    """Open, play, close, and look at the server before, while and after."""
    players = Players()
    async with EnvironmentClient(url, Timeouts(request_s=60.0), retries=0) as client:
        await warm(client)
        before = megabytes(process)
        opened: list[Session] = []
        while len(opened) < sessions:
            opened += await client.open(min(CHUNK, sessions - len(opened)))
        ends = time.perf_counter() + seconds
        playing = asyncio.gather(*(players.play(one, number, ends) for number, one in enumerate(opened)))
        await asyncio.sleep(seconds * 0.8)
        during = megabytes(process)
        await playing
        await asyncio.gather(*(one.close() for one in opened))
        left = json.loads((await client.transport.request("GET", "/v1/capacity")).body)["active_sessions"]
        after = megabytes(process)
    waits = np.array(players.latencies)
    return {
        "sessions": sessions,
        "seconds": seconds,
        "steps": len(waits),
        "steps_per_s": round(len(waits) / seconds, 1),
        "episodes": players.episodes,
        "errors": len(players.errors),
        "error_examples": sorted(set(players.errors))[:3],
        "latency_ms": {f"p{p}": round(float(np.percentile(waits, p)) * 1000, 1) for p in (50, 95, 99)},
        "memory_mb": {"before": round(before, 1), "during": round(during, 1), "after": round(after, 1)},
        "memory_kb_per_session": round((during - before) * 1024 / sessions, 1),
        "sessions_left": left,
    }


async def warm(client: EnvironmentClient) -> None:
    """Let caches and pools fill: they are no part of a session's memory."""
    opened = await client.open(CHUNK)
    for start in range(0, 512, CHUNK):
        await asyncio.gather(*(one.reset(split="train", index=start + i) for i, one in enumerate(opened)))
    for _ in range(10):
        await asyncio.gather(*(one.step("still") for one in opened))
    await asyncio.gather(*(one.close() for one in opened))


def main() -> int:
    """Measure, show, write. Exit status 1 after any error or a session that stayed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with server(args.sessions) as (url, process):
        result = asyncio.run(hold(url, process, args.sessions, args.seconds))
    result["machine"] = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    result["passed"] = result["errors"] == 0 and result["sessions_left"] == 0
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
