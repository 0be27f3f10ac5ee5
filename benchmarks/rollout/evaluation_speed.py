"""Compares the duration of an evaluation with the time that the replies of the model need.

    python -m benchmarks.rollout.evaluation_speed [--tasks 2048] [--concurrency 64] [--reply-ms 50]

The command `arlarena eval` plays Sokoban. The model is an HTTP server with OpenAI's API in this process. After
`reply-ms`, the model replies to each request with a random move. The environment server is a third process.

With `concurrency` requests at the same time, the replies alone need requests * reply-ms / concurrency. This is the
ideal duration. The measured duration begins with the first request and ends with the last reply, so it does not include
the start of the command.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from benchmarks.support.results import finish

MAX_RATIO = 1.15  # limit of the duration relative to the ideal duration
MOVES = ("up", "down", "left", "right")


class SlowModel:
    """The model of the evaluation.

    Attributes:
        reply_s: seconds from a request to its reply.
        requests: number of answered requests.
        running: number of requests in progress.
        most: maximum of `running`.
        first: time of the first request.
        last: time of the last reply.
    """

    def __init__(self, reply_s: float) -> None:
        self.reply_s, self.requests, self.running, self.most = reply_s, 0, 0, 0
        self.first = self.last = 0.0
        self._random = random.Random(0)

    async def complete(self, request: web.Request) -> web.Response:
        """Wait for `reply_s` seconds. Then return a completion with a random move."""
        self.first = self.first or time.perf_counter()
        self.running += 1
        self.most = max(self.most, self.running)
        await request.read()
        await asyncio.sleep(self.reply_s)
        self.running -= 1
        self.requests += 1
        self.last = time.perf_counter()
        text = f"<think></think><action>{self._random.choice(MOVES)}</action>"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return web.json_response({"id": "1", "model": "slow", "choices": [choice], "usage": usage})


async def measured(flags: argparse.Namespace) -> dict[str, Any]:
    """Run one evaluation. Return the measurements. `flags`: the command line.

    Raises:
        SystemExit: the evaluation fails.
    """
    model, app = SlowModel(flags.reply_ms / 1000), web.Application()
    app.router.add_post("/v1/chat/completions", model.complete)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "arlarena.rollout.evaluation", "slow", "--base-url", runner_url(runner)]
        command += ["--env", "sokoban", "--split", "train", "--count", str(flags.tasks)]
        command += ["--concurrency", str(flags.concurrency), "--out", folder]
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        status = await process.wait()
    await runner.cleanup()
    if status:
        raise SystemExit(f"error: the evaluation ended with exit status {status}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, ideal = model.last - model.first, model.requests * model.reply_s / flags.concurrency
    return {
        "tasks": flags.tasks,
        "requests": model.requests,
        "most_requests_at_once": model.most,
        "seconds": round(seconds, 2),
        "ideal_seconds": round(ideal, 2),
        "ratio": round(seconds / ideal, 3),
        # The CPU time of the command and of its environment server, including their start.
        "cpu_ms_per_request": round(1000 * (used.ru_utime + used.ru_stime) / model.requests, 3),
        "load_average": round(os.getloadavg()[0], 2),
    }


def runner_url(runner: web.AppRunner) -> str:
    """Return the base URL of the model's API, such as `http://127.0.0.1:8000/v1`."""
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}/v1"


def main() -> int:
    """Run the benchmark. Return 0 if the duration is at most `MAX_RATIO` times the ideal duration, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2048)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--reply-ms", type=float, default=50.0)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    result = uvloop.run(measured(flags))
    result |= {"required_ratio": MAX_RATIO, "passed": result["ratio"] <= MAX_RATIO}
    return finish(result, flags.out)


if __name__ == "__main__":
    sys.exit(main())
