"""Tests an environment server with clients that disappear: killed, frozen, or with silently closed connections.

    python -m benchmarks.env_server.soak --seconds 120 --out benchmarks/results/env_soak.json

The test starts client processes in waves. Each client plays random actions in sessions over WebSocket and over HTTP.
Then the client disappears in one of three ways:

* `killed`: SIGKILL kills the client.
* `frozen`: SIGSTOP stops the client. Its sockets stay open, but it does not read or reply.
* `cut`: the WebSocket connections of the client are closed without a packet to the server (socket option TCP_REPAIR).
  Without the capability CAP_NET_ADMIN, the test does not use this way.

Another client plays normally during all waves. The server must serve all requests of this client. After the last wave,
the frozen clients stay frozen. The server must end all sessions within their time to live (TTL), and close all
connections. After that, the server must accept the maximum number of new sessions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from benchmarks.support.environment_server import ask, environment_server, open_sessions
from benchmarks.support.results import finish

CAPACITY, TTL_S, GRACE_S, REAP_S = 256, 2.0, 1.0, 0.1
WAVE_S = 2.5  # seconds between the starts of two waves
CLIENTS = 3  # number of clients of a wave for each way to disappear
EACH = 6  # number of WebSocket sessions of a client; the client has the same number of HTTP sessions
TCP_REPAIR = 19  # Linux: linux/tcp.h
ACTIONS = ("up", "down", "left", "right", "still")
CLOSE_S = 30.0  # limit until all connections are closed; the server waits about 10 s for the close frame of a client


async def vanish(url: str, seed: int, way: str) -> None:
    """Run a client that plays until it disappears. This function is the main function of a client process.

    `way`: `killed`, `frozen` or `cut`. With `killed` and `frozen`, the client plays until the test sends a signal to
    its process. With `cut`, the client closes its connections without a packet after at most 1 s, and exits.
    """
    rng = random.Random(seed)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        sockets = [await session.ws_connect(url + "/ws") for _ in range(EACH)]
        body = {"count": EACH, "reset": [{"split": "train", "index": rng.randrange(512)}]}
        async with session.post(url + "/v1/sessions", json=body) as reply:
            names = [one["session_id"] for one in (await reply.json())["sessions"]]
        for one in sockets:
            await one.send_json({"type": "reset", "data": {"seed": rng.randrange(512)}})
        print("playing", flush=True)
        ends = time.monotonic() + rng.uniform(0.3, 1.0) if way == "cut" else float("inf")
        while time.monotonic() < ends:
            for one in sockets:
                await one.send_json({"type": "step", "data": {"text": rng.choice(ACTIONS)}})
            items = [{"session_id": name, "op": "step", "action": {"text": rng.choice(ACTIONS)}} for name in names]
            async with session.post(url + "/v1/batch", json={"items": items}) as reply:
                await reply.read()
        for one in sockets:
            connection = one.get_extra_info("socket")
            socket.socket(fileno=os.dup(connection.fileno())).setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        os._exit(0)


def can_cut() -> bool:
    """Return whether this process may use TCP_REPAIR, which closes a connection without a packet to the peer."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except OSError:
            return False
    return True


class DisappearingClients:
    """The clients that disappear.

    Attributes:
        ways: the ways to disappear (`killed`, `frozen`, `cut`).
        counts: way to disappear → number of clients so far.
    """

    def __init__(self, url: str, seed: int) -> None:
        self._url, self._rng = url, random.Random(seed)
        self.ways = ["killed", "frozen", *(["cut"] if can_cut() else [])]
        self.counts = dict.fromkeys(self.ways, 0)
        self._frozen: list[subprocess.Popen[str]] = []

    async def wave(self) -> None:
        """Start `CLIENTS` clients for each way to disappear, let them play, and make them disappear."""
        await asyncio.gather(*(self._run_client(way) for way in self.ways for _ in range(CLIENTS)))

    async def _run_client(self, way: str) -> None:
        seed = self._rng.randrange(2**32)
        command = [sys.executable, "-m", "benchmarks.env_server.soak", "--vanish", way]
        command += ["--url", self._url, "--seed", str(seed)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        if line != "playing\n":
            raise SystemExit(f"error: a client did not start (exit status {process.wait()})")
        if way == "cut":
            await asyncio.to_thread(process.wait)
        else:
            await asyncio.sleep(self._rng.uniform(0.1, 0.6))
            process.send_signal(signal.SIGKILL if way == "killed" else signal.SIGSTOP)
        if way == "frozen":
            self._frozen.append(process)
        else:
            process.wait()
        self.counts[way] += 1

    def end(self) -> None:
        """Kill the frozen clients."""
        for process in self._frozen:
            process.kill()
            process.wait()


class NormalClient:
    """A client that plays normally. The clients that disappear must not affect it.

    Attributes:
        sessions: number of opened sessions.
        steps: number of steps.
        refused: error messages from the server.
        slowest_s: duration of the slowest round in seconds.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.sessions = self.steps = 0
        self.refused: list[str] = []
        self.slowest_s = 0.0

    async def run(self, session: aiohttp.ClientSession) -> None:
        """In an endless loop, open sessions over HTTP and WebSocket, play in them, and close them."""
        while True:
            begun = time.monotonic()
            await asyncio.gather(self._by_http(session), self._by_socket(session))
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
            await asyncio.sleep(0.05)

    async def _by_http(self, session: aiohttp.ClientSession) -> None:
        async with session.post(self._url + "/v1/sessions", json={"count": 4, "reset": [{"seed": 1}]}) as reply:
            answer = await reply.json()
        if reply.status != 200:
            self.refused.append(answer["message"])
            return
        self.sessions += 4
        names = [one["session_id"] for one in answer["sessions"]]
        items = [{"session_id": name, "op": "step", "action": {"text": "still"}} for name in names]
        items += [{"session_id": name, "op": "close"} for name in names]
        async with session.post(self._url + "/v1/batch", json={"items": items}) as reply:
            results = (await reply.json())["results"]
        self.steps += 4
        self.refused += [result["error"]["message"] for result in results if not result["ok"]]

    async def _by_socket(self, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(self._url + "/ws") as one:
            for frame in ({"type": "reset", "data": {"seed": 2}}, {"type": "step", "data": {"text": "up"}}):
                await one.send_json(frame)
                answer = json.loads((await one.receive(timeout=30)).data)
                if answer["type"] != "observation":
                    self.refused.append(answer["data"]["message"])
                    return
        self.sessions += 1
        self.steps += 1


async def soak(url: str, server: psutil.Process, seconds: float, seed: int) -> dict[str, Any]:
    """Run all waves of clients for `seconds`. Return the measurements.

    The measurements include the sessions and connections that remain on the server, and whether the server accepts the
    maximum number of new sessions. `server`: process of the server.
    """
    clients, normal, most = DisappearingClients(url, seed), NormalClient(url), 0
    async with aiohttp.ClientSession() as session:
        playing = asyncio.create_task(normal.run(session))
        ends = time.monotonic() + seconds
        try:
            while time.monotonic() < ends:
                next_wave = time.monotonic() + WAVE_S
                await clients.wave()
                most = max(most, await asyncio.to_thread(open_sessions, url))
                await asyncio.sleep(max(0.0, next_wave - time.monotonic()))
            if playing.done():
                playing.result()
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
        vanished_at = time.monotonic()
        while await asyncio.to_thread(open_sessions, url) and time.monotonic() - vanished_at < 10 * TTL_S:
            await asyncio.sleep(0.05)
        left, zero_after_s = await asyncio.to_thread(open_sessions, url), time.monotonic() - vanished_at
    connections = await connections_left(server)
    gone_after_s = time.monotonic() - vanished_at
    clients.end()
    status, _ = ask(url + "/v1/sessions", {"count": CAPACITY, "reset": [{"seed": 3}]})
    return {
        "seconds": seconds,
        "seed": seed,
        "vanished": clients.counts,
        "sessions_each": 2 * EACH,
        "most_sessions": most,
        "ttl_s": TTL_S,
        "honest": {
            "sessions": normal.sessions,
            "steps": normal.steps,
            "refused": len(normal.refused),
            "examples": sorted(set(normal.refused))[:3],
            "slowest_round_s": round(normal.slowest_s, 2),
        },
        "sessions_left": left,
        "zero_after_s": round(zero_after_s, 2),
        "connections_left": connections,
        "connections_gone_after_s": round(gone_after_s, 2),
        "full_house_admitted": status == 200,
        "memory_mb": round(server.memory_info().rss / 2**20, 1),
    }


async def connections_left(server: psutil.Process) -> int:
    """Wait until the server has closed all connections, at most `CLOSE_S`. Return the number of open connections."""
    since = time.monotonic()
    while (left := connections_of(server)) and time.monotonic() - since < CLOSE_S:
        await asyncio.sleep(0.1)
    return left


def connections_of(server: psutil.Process) -> int:
    """Return the number of open TCP connections of all processes of the server. Listening sockets do not count."""
    everything = [one for process in (server, *server.children()) for one in process.net_connections("tcp")]
    return sum(one.status != psutil.CONN_LISTEN for one in everything)


def main() -> int:
    """Run the waves, check the measurements and write the result. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--vanish", choices=("killed", "frozen", "cut"), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.vanish:
        asyncio.run(vanish(args.url, args.seed, args.vanish))
        return 0
    limits = {"capacity": CAPACITY, "session_ttl_s": TTL_S, "reattach_grace_s": GRACE_S, "reap_interval_s": REAP_S}
    with environment_server("--workers", str(args.workers), **limits) as (url, server):
        result = asyncio.run(soak(url, server, args.seconds, args.seed))
    result["passed"] = (
        result["honest"]["refused"] == 0
        and result["honest"]["sessions"] > 0
        and result["sessions_left"] == 0
        and result["zero_after_s"]
        <= TTL_S + 1.0  # 1 s for the intervals of the server's search for expired sessions and of our requests
        and result["connections_left"] == 0
        and result["full_house_admitted"]
    )
    return finish(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
