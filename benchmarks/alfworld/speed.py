"""Compares our ALFWorld engine with TextWorld, and our ALFWorld server with servers of environments without rules.

    make setup EXTRA=alfworld && python -m benchmarks.alfworld.speed --out benchmarks/results/alfworld_speed.json

* `engines`: for our engine and for TextWorld, the time of a reset and of a step, and the memory of a game
  (`engines.py`).
* `steps_per_s`: steps per second of a server over `/v1/batch`, with 256 sessions and two concurrent batches. The
  environments are `alfworld`, `mute` (always the same ALFWorld observation) and `noop` (always one word). Actions are
  random admissible commands. The servers are measured in turn, in several rounds. The medians are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from benchmarks.env_server.speed import BATCHES, post, server
from benchmarks.support.paths import ROOT
from benchmarks.support.ports import free_port
from benchmarks.support.results import finish

STOCK = ROOT / ".venv-alfworld" / "bin" / "python"
SESSIONS = 256
WARM_S = 15.0  # seconds of the warm-up round
SEEDS = 64  # number of different games; several sessions play the same game, like the episodes of a group


class EngineOutput(msgspec.Struct):
    """The fields of an observation that this benchmark reads."""

    admissible_actions: list[str] | None = None


class Item(msgspec.Struct):
    """The fields of one result of a batch that this benchmark reads."""

    ok: bool
    done: bool | None = None
    observation: EngineOutput | None = None


class Reply(msgspec.Struct):
    """The fields of the reply to a batch that this benchmark reads."""

    results: list[Item]


ENCODE, DECODER = msgspec.json.encode, msgspec.json.Decoder(Reply)


async def rate(url: str, seconds: float, number: int) -> float:
    """Return the steps per second of the server at `url`, in one round of `seconds`.

    `number`: number of the round. Each round has other random actions.
    """
    async with aiohttp.ClientSession() as session:
        ends = time.perf_counter() + seconds
        counts = await asyncio.gather(*(batches(session, url, f"{number}/{part}", ends) for part in range(BATCHES)))
    return sum(counts) / seconds


async def batches(session: aiohttp.ClientSession, url: str, walks: str, ends: float) -> int:
    """Open the sessions of one batch, and step them until `time.perf_counter()` is `ends`. Return the number of steps.

    `walks`: seed of the random actions. If an episode has ended, the next request resets its session. The duration
    includes the resets, but the number of steps does not.
    """
    walk, count, steps = random.Random(walks), SESSIONS // BATCHES, 0
    seeds = [seed % SEEDS for seed in range(count)]
    opened = await post(session, url + "/v1/sessions", {"count": count, "reset": [{"seed": seed} for seed in seeds]})
    names = [one["session_id"] for one in opened["sessions"]]
    menus = [one["result"]["observation"].get("admissible_actions") for one in opened["sessions"]]
    done = [False] * count
    while time.perf_counter() < ends:
        items = [
            {"session_id": name, "op": "reset", "seed": seed}
            if over
            else {"session_id": name, "op": "step", "action": {"text": walk.choice(menu) if menu else "look"}}
            for name, seed, over, menu in zip(names, seeds, done, menus, strict=True)
        ]
        async with session.post(url + "/v1/batch", data=ENCODE({"items": items})) as reply:
            results = DECODER.decode(await reply.read()).results
        assert all(result.ok for result in results)
        steps += done.count(False)
        done = [bool(result.done) for result in results]
        menus = [result.observation.admissible_actions if result.observation else None for result in results]
    for name in names:
        async with session.delete(f"{url}/v1/sessions/{name}") as reply:
            assert reply.status == 204
    return steps


def measure_servers(seconds: float, rounds: int) -> dict[str, list[float]]:
    """Return server → steps per second of each round. `seconds`: duration of a round. The first round is a warm-up."""
    rates: dict[str, list[float]] = {"alfworld": [], "mute": [], "noop": []}
    ports = {name: free_port() for name in rates}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    options = ["--capacity", "1024", "--port"]
    serve = [sys.executable, "-m", "arlarena.env_server"]
    ours = [*serve, "alfworld", *options, str(ports["alfworld"])]
    with (
        server([*serve, "benchmarks.alfworld.noop_environment", *options, str(ports["noop"])], urls["noop"]),
        server([*serve, "benchmarks.alfworld.mute_environment", *options, str(ports["mute"])], urls["mute"]),
        server(ours, urls["alfworld"], ALFWORLD_DATA=""),
    ):
        for number in range(rounds + 1):
            for name, url in urls.items():
                speed = asyncio.run(rate(url, seconds if number else WARM_S, number))
                if number:  # round 0 is the warm-up, in which the server generates the games
                    rates[name].append(speed)
    return rates


def main() -> int:
    """Measure the servers and engines, compare them, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds for each server in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not STOCK.exists():
        raise SystemExit("error: TextWorld is not installed: run `make setup EXTRA=alfworld`")
    rates = measure_servers(args.seconds, args.rounds)
    command = [str(STOCK), "-m", "benchmarks.alfworld.engines"]
    path = os.pathsep.join(str(ROOT / part) for part in (".", "proto", "environments/sdk", "environments/alfworld"))
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=True, stdout=subprocess.PIPE)
    engines: dict[str, Any] = json.loads(done.stdout)
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}

    def ratio(measurement: str) -> float:
        theirs, ours = engines[measurement]["textworld"], engines[measurement]["ours"]
        return float(round(theirs / ours, 1))

    claims = [
        ("speed of a step, as a multiple of TextWorld's", ratio("step_s"), 300.0),
        ("speed of a reset, as a multiple of TextWorld's", ratio("reset_s"), 100.0),
        ("number of our games in the memory of one TextWorld game", ratio("memory_bytes"), 20.0),
        (
            "steps/s at 256 sessions, as a share of those without a game",
            round(medians["alfworld"] / medians["noop"], 3),
            0.5,
        ),
    ]
    return finish(
        {
            "engines": engines,
            "steps_per_s": medians,
            "of_the_rate_with_equal_answers": round(medians["alfworld"] / medians["mute"], 3),
            "rounds": {name: [round(value, 1) for value in values] for name, values in rates.items()},
            "claims": [{"claim": claim, "is": value, "wanted": least} for claim, value, least in claims],
            "passed": all(value >= least for _, value, least in claims),
        },
        args.out,
    )


if __name__ == "__main__":
    sys.exit(main())
