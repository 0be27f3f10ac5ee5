"""Fuzzes an environment server: its HTTP API with schemathesis, and its WebSocket with random frames and raw bytes.

    make setup EXTRA=fuzz
    python -m benchmarks.env_server.fuzz --requests 20000 --out benchmarks/results/env_fuzz.json

The run passes if:

- the server's metrics count no status 5xx and no internal error
- each reply takes at most 10 s
- all sessions have expired at the end (`session_ttl_s`)
- schemathesis finds no reply that contradicts the OpenAPI document

Schemathesis gets a seed, so runs with the same seed send the same requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.support.environment_server import ask, environment_server, open_sessions
from benchmarks.support.paths import ROOT
from benchmarks.support.results import finish

SCHEMATHESIS = ROOT / ".venv-fuzz" / "bin" / "st"
# The check `positive_data_acceptance` is not used. It requires that the server accepts every request that the schema
# allows. But a schema cannot express which splits exist, or that a step_index needs a session. Also, `1.0` is an
# integer in JSON Schema, but this server rejects it.
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "missing_required_header", "allow_header_conformance",
)  # fmt: skip
LIMITS = {
    "capacity": 4096, "session_ttl_s": 2.0, "max_session_ttl_s": 4.0, "reattach_grace_s": 1.0, "reap_interval_s": 0.2,
    "max_sessions_per_client": 256, "max_snapshots": 1_000_000, "snapshot_ttl_s": 4.0, "max_body_bytes": 1_000_000,
}  # fmt: skip
ANSWER_S = 10.0
# The value of the label `route` can contain braces. The list of labels therefore ends at the last brace of the line.
REQUESTS = re.compile(r'^arlarena_env_requests_total\{.*status="(\d+)".*\} (\S+)$', re.M)
INTERNAL_ERRORS = re.compile(r'^arlarena_env_errors_total\{code="internal".*\} (\S+)$', re.M)


def metrics(url: str) -> str:
    """Return the metrics of the environment server at `url` as text."""
    with urllib.request.urlopen(url + "/metrics", timeout=10) as reply:
        return str(reply.read().decode())


def statuses(url: str) -> Counter[str]:
    """Return HTTP status → number of requests, from the metrics of the environment server at `url`."""
    counts: Counter[str] = Counter()
    for status, count in REQUESTS.findall(metrics(url)):
        counts[status] += int(float(count))
    return counts


def internal_errors(url: str) -> int:
    """Return the number of internal errors, from the server's metrics. Errors after WebSocket frames also count."""
    return sum(int(float(count)) for count in INTERNAL_ERRORS.findall(metrics(url)))


def fuzz_http(url: str, requests: int, examples: int, seed: int) -> list[dict[str, Any]]:
    """Run schemathesis again and again, until the server has received at least `requests` requests.

    Args:
        url: URL of the server.
        requests: minimum number of requests.
        examples: number of examples of each operation in one run of schemathesis.
        seed: seed of the first run. Each further run has the next seed.

    Returns:
        For each run of schemathesis, the seed and whether all checks passed.

    Raises:
        SystemExit: schemathesis could not run.
    """
    rounds: list[dict[str, Any]] = []
    while sum(statuses(url).values()) < requests:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                str(SCHEMATHESIS), "run", url + "/openapi.json", "--checks", ",".join(CHECKS), "--max-examples",
                str(examples), "--request-timeout", str(ANSWER_S), "--continue-on-failure", "--seed",
                str(seed + len(rounds)), "--no-color", "--report", "junit", "--report-dir", folder,
            ]  # fmt: skip
            environment = {
                **os.environ,
                "SCHEMATHESIS_HOOKS": str(ROOT / "benchmarks" / "env_server" / "fuzz_hooks.py"),
            }
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
        tail = done.stdout[done.stdout.find("= SUMMARY =") :]
        rounds.append({"seed": seed + len(rounds), "passed": done.returncode == 0})
        print(f"schemathesis, seed {rounds[-1]['seed']}: exit status {done.returncode}\n{tail}", flush=True)
        if done.returncode != 0:
            print(done.stdout[-20_000:], done.stderr[-4000:], sep="\n", flush=True)
        if done.returncode not in (0, 1):
            raise SystemExit(f"error: schemathesis could not run: {' '.join(command)}")
    return rounds


class Frames:
    """Generates random WebSocket messages: valid messages, damaged messages, random JSON, and random bytes."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def frame(self) -> str | bytes:
        """Return the next random message."""
        kind = self._rng.randrange(6)
        if kind == 0:
            return json.dumps(self._valid())
        if kind == 1:
            return self._damaged(json.dumps(self._valid()))
        if kind == 2:
            return json.dumps(self._json(0))
        if kind == 3:
            return "[" * self._rng.randrange(1, 3000)
        if kind == 4:
            return self._rng.randbytes(self._rng.randrange(200))
        return "".join(chr(self._rng.choice((0, 34, 92, 123, 0x20AC, 0x1F600))) for _ in range(self._rng.randrange(60)))

    def _valid(self) -> dict[str, Any]:
        kind = self._rng.choice(["reset", "step", "state", "mcp", "nonsense", None, 7])
        data = {
            "reset": {"seed": self._rng.choice([0, 1, 2, 10**30, -1, 0.5, "x", None]), "split": self._split()},
            "step": {"text": self._rng.choice(["up", "x" * 10_000, "<action>up</action>", "", 7])},
            "mcp": {"jsonrpc": "2.0", "id": self._json(3), "method": self._rng.choice(["tools/list", "tools/call", 3])},
        }.get(str(kind), self._json(1))
        return {"type": kind, "data": data}

    def _split(self) -> Any:
        return self._json(3) if self._rng.random() < 0.3 else self._rng.choice(["train", "test", None])

    def _damaged(self, text: str) -> str:
        place = self._rng.randrange(len(text))
        return text[:place] + self._rng.choice(["", '"', "}", "\0", "é", "[", "1e999"]) + text[place + 1 :]

    def _json(self, depth: int) -> Any:
        leaves = [None, True, -1, 2**63, 1e308, "", "reset", "\ud800"]
        if depth > 3 or self._rng.random() < 0.4:
            return self._rng.choice(leaves)
        if self._rng.random() < 0.5:
            return [self._json(depth + 1) for _ in range(self._rng.randrange(4))]
        return {str(self._rng.choice(leaves)): self._json(depth + 1) for _ in range(self._rng.randrange(4))}

    def raw(self) -> bytes:
        """Return random bytes for a WebSocket connection. They are rarely a valid WebSocket frame."""
        head = bytes([self._rng.randrange(256), self._rng.randrange(256)])
        return head + self._rng.randbytes(self._rng.randrange(300))


async def fuzz_socket(url: str, frames: int, seed: int) -> dict[str, int]:
    """Send `frames` random frames over WebSockets, one after another.

    Returns the number of frames (key `frames`), and the number of replies of each type. The key `closed` counts frames
    after which the server closed the socket. The key `unanswered` counts frames after which the server did nothing.
    """
    source, counts = Frames(seed), Counter[str]()
    async with aiohttp.ClientSession() as session:
        while counts["frames"] < frames:
            async with session.ws_connect(url + "/ws") as one:
                for _ in range(200):
                    counts["frames"] += 1
                    try:
                        kind = await answer_to(one, source.frame())
                    except TimeoutError:
                        counts["unanswered"] += 1
                        break
                    counts[kind] += 1
                    if kind == "closed":
                        break
    return dict(counts)


async def answer_to(one: aiohttp.ClientWebSocketResponse, frame: str | bytes) -> str:
    """Send a frame. Return the type of the reply. If the server closed the socket, return `closed`.

    Raises:
        TimeoutError: the server did nothing within `ANSWER_S`.
    """
    if isinstance(frame, bytes):
        await one.send_bytes(frame)
    else:
        await one.send_bytes(frame.encode("utf-8", "surrogatepass"))
    message = await one.receive(timeout=ANSWER_S)
    if message.type is not aiohttp.WSMsgType.TEXT:
        return "closed"
    return str(json.loads(message.data)["type"])


async def fuzz_raw(url: str, connections: int, seed: int) -> dict[str, int]:
    """Open WebSocket connections one after another, and send random bytes over each of them.

    Returns the number of connections (key `connections`).
    """
    source, counts = Frames(seed), Counter[str]()
    host, port = url.removeprefix("http://").split(":")
    for _ in range(connections):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ANSWER_S)
        writer.write(source.raw())
        counts["connections"] += 1
        writer.close()
    return dict(counts)


def judged(url: str, http: list[dict[str, Any]], sockets: dict[str, int], raw: dict[str, int]) -> dict[str, Any]:
    """Wait until all sessions of the server have expired. Return the result of the benchmark, with the key `passed`.

    `http`, `sockets`, `raw`: the results of `fuzz_http`, `fuzz_socket` and `fuzz_raw`.
    """
    since = time.monotonic()
    while open_sessions(url) and time.monotonic() - since < 3 * LIMITS["max_session_ttl_s"]:
        time.sleep(0.1)
    counts = statuses(url)
    result = {
        "requests": sum(counts.values()),
        "by_status": dict(sorted(counts.items())),
        "schemathesis": http,
        "frames": sockets,
        "raw_connections": raw["connections"],
        "internal_errors": internal_errors(url),
        "sessions_left": open_sessions(url),
        "sessions_zero_after_s": round(time.monotonic() - since, 2),
        "answers_health": ask(url + "/health")[0] == 200,
    }
    result["passed"] = (
        not any(status >= "500" for status in counts)
        and all(one["passed"] for one in http)
        and result["internal_errors"] == result["sessions_left"] == sockets.get("unanswered", 0) == 0
        and result["answers_health"]
    )
    return result


def main() -> int:
    """Fuzz the server, check its counts and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="minimum number of requests of schemathesis")
    parser.add_argument(
        "--examples", type=int, default=300, help="number of examples of each operation in a round of schemathesis"
    )
    parser.add_argument("--frames", type=int, default=20_000, help="number of WebSocket frames")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.requests and not SCHEMATHESIS.exists():
        raise SystemExit("error: schemathesis is not installed: run `make setup EXTRA=fuzz`")
    with environment_server("--workers", str(args.workers), **LIMITS) as (url, _):
        http = fuzz_http(url, args.requests, args.examples, args.seed)
        sockets = asyncio.run(fuzz_socket(url, args.frames, args.seed))
        raw = asyncio.run(fuzz_raw(url, max(1, args.frames // 20), args.seed))
        result = judged(url, http, sockets, raw)
    return finish(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
