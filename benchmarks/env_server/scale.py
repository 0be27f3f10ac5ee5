"""Measures an environment server with thousands of concurrent sessions: errors, latency, memory, remaining sessions.

    python -m benchmarks.env_server.scale --sessions 16384 --seconds 60 --out benchmarks/results/env_scale.json

Each session has a player. A player sends its next step when the reply to the previous step has arrived. All players
share one client, with the event loop and the garbage collection of a rollout worker. The client combines the steps of
several players in batch requests. The latency is the time that a player waits, including the client's own time.

The server has `--workers` processes. The client is another process. With one worker, the client needs half of a core.
With two workers on two cores, server and client together use both cores completely.

The memory is the resident set of all processes of the server. It is measured before, during and after the sessions.
After a second run with the same number of sessions, it is measured again. If the memory grows from run to run, the
server has a memory leak.

With `--malloc`, the server allocates Python objects with malloc (PYTHONMALLOC=malloc) instead of Python's own
allocator. Python's allocator keeps an arena of 1 MB as long as one object in the arena is in use.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop

from arlarena.client.environments import EnvironmentClient, Session
from arlarena.client.errors import ServiceError
from arlarena.client.transport import Timeouts
from arlarena.proto.http.event_loop import rare_garbage_collection
from benchmarks.support.environment_server import environment_server
from benchmarks.support.results import finish

ACTIONS = ("up", "left", "down", "right", "still")
CHUNK = 256  # sessions opened by one request
TASKS = 512
SETTLE_S = 8.0  # longer than the server's reap_interval_s


class Players:
    """All players, and their measurements.

    Attributes:
        latencies: seconds of each step.
        errors: error messages.
        episodes: number of finished episodes.
    """

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.errors: list[str] = []
        self.episodes = 0

    async def play(self, session: Session, number: int, ends: float) -> None:
        """Play episodes in one session, until `time.perf_counter()` is `ends`. `number`: number of the player."""
        steps = 0
        try:
            state = await session.reset(split="train", index=number % TASKS)
            while time.perf_counter() < ends:
                if state.done:
                    self.episodes += 1
                    state = await session.reset(split="train", index=(number + self.episodes) % TASKS)
                    continue
                begun = time.perf_counter()
                state = await session.step(ACTIONS[(steps + number) % len(ACTIONS)])
                self.latencies.append(time.perf_counter() - begun)
                steps += 1
        except ServiceError as error:
            self.errors.append(str(error))


def processes_of(server: psutil.Process) -> list[psutil.Process]:
    """Return the processes that serve requests: the server's workers, or the server itself if it has no workers."""
    return server.children() or [server]


def megabytes(server: psutil.Process) -> float:
    """Return the resident memory of all processes of the server in MB (1,048,576 bytes)."""
    return sum(float(process.memory_info().rss) for process in processes_of(server)) / 2**20


def cpu_seconds(server: psutil.Process) -> dict[str, float]:
    """Return the CPU time of the server and of this process (`client`) in seconds."""
    used = {"server": processes_of(server), "client": [psutil.Process()]}
    times = {name: [process.cpu_times() for process in processes] for name, processes in used.items()}
    return {name: sum(each.user + each.system for each in of_process) for name, of_process in times.items()}


async def run_sessions(url: str, process: psutil.Process, sessions: int, seconds: float) -> dict[str, Any]:
    """Open sessions, play in all of them for `seconds`, and close them. Return the measurements.

    `process`: the server. `sessions`: number of sessions.
    """
    players, load = Players(), os.getloadavg()[0]
    async with EnvironmentClient(url, Timeouts(request_s=60.0), retries=0) as client:
        await warm(client, min(CHUNK, sessions))
        before = megabytes(process)
        opened: list[Session] = []
        while len(opened) < sessions:
            opened += await client.open(min(CHUNK, sessions - len(opened)))
        ends, used = time.perf_counter() + seconds, cpu_seconds(process)
        playing = asyncio.gather(*(players.play(one, number, ends) for number, one in enumerate(opened)))
        await asyncio.sleep(seconds * 0.8)
        during = megabytes(process)
        await playing
        used = {name: after - used[name] for name, after in cpu_seconds(process).items()}
        await asyncio.gather(*(one.close() for one in opened))
        left = json.loads((await client.transport.request("GET", "/v1/capacity")).body)["active_sessions"]
        after = await memory_after_release(process)
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
        "memory_given_back": round((during - after) / (during - before), 2) if during > before else None,
        "sessions_left": left,
        "cpu_s": {name: round(value, 1) for name, value in used.items()},
        "load_average": {"before": round(load, 2), "after": round(os.getloadavg()[0], 2)},
    }


async def memory_after_release(process: psutil.Process) -> float:
    """Wait until the server's resident memory has not fallen for `SETTLE_S`. Return the lowest value in MB.

    The server searches for expired sessions at intervals, and releases memory after each search.
    """
    least, since = megabytes(process), time.monotonic()
    while time.monotonic() - since < SETTLE_S:
        await asyncio.sleep(0.1)
        if (now := megabytes(process)) < least:
            least, since = now, time.monotonic()
    return least


async def warm(client: EnvironmentClient, sessions: int) -> None:
    """Fill the caches and pools of the server. Their memory then does not count as memory of the measured sessions.

    The server caches the start of each task, and the observations of frequent states. This function therefore plays
    each task with the same sequences of actions as the measurement. `sessions`: number of sessions that it opens.
    """
    opened = await client.open(sessions)
    for shift, start in itertools.product(range(len(ACTIONS)), range(0, TASKS, sessions)):
        await asyncio.gather(*(warm_episode(one, (start + i) % TASKS, shift) for i, one in enumerate(opened)))
    await asyncio.gather(*(one.close() for one in opened))


async def warm_episode(session: Session, index: int, shift: int) -> None:
    """Play one episode of the training task `index`. `shift`: position of the first action in `ACTIONS`."""
    state, steps = await session.reset(split="train", index=index), 0
    while not state.done:
        state = await session.step(ACTIONS[(steps + shift) % len(ACTIONS)])
        steps += 1


def main() -> int:
    """Measure the server, print and write the result. Return 0 if all of these conditions hold, else 1.

    - No request failed, and no session is left.
    - The 99th percentile of a step's latency is below the limit.
    - The server has released at least half of the memory of the sessions.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=16384)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--p99-s", type=float, default=1.0, help="limit of the 99th percentile of a step's latency")
    parser.add_argument("--workers", type=int, default=1, help="processes of the server")
    parser.add_argument("--malloc", action="store_true", help="let the server use malloc for Python objects")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.malloc:
        os.environ["PYTHONMALLOC"] = "malloc"  # the server inherits this variable
    server = environment_server("--workers", str(args.workers), capacity=args.sessions)
    with rare_garbage_collection(), server as (url, process):
        result = uvloop.run(run_sessions(url, process, args.sessions, args.seconds))
        again = uvloop.run(run_sessions(url, process, args.sessions, args.seconds / 4))
    memory = result["memory_mb"]
    memory["after_a_second_crowd"] = again["memory_mb"]["after"]
    retained = max(memory["after"], memory["after_a_second_crowd"]) - memory["before"]
    failures = result["errors"] + again["errors"] + result["sessions_left"] + again["sessions_left"]
    result["workers"] = args.workers
    result["allocator"] = "malloc" if args.malloc else "pymalloc"
    result["passed"] = (
        failures == 0
        and result["latency_ms"]["p99"] < args.p99_s * 1000
        and retained <= 0.5 * (memory["during"] - memory["before"])
    )
    return finish(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
