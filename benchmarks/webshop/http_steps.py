"""Measures the steps per second over `/v1/batch` of two servers: WebShop, and an environment without rules.

On both servers, 256 sessions play the same prepared actions. The first step of each session is a search. All later
steps are clicks. All sessions take a step at the same time, in two concurrent batches. Searches and clicks are measured
separately.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import Any

import aiohttp
import msgspec

from arlarena.environments.webshop.environment import load
from arlarena.environments.webshop.shop.actions import parse_action
from benchmarks.env_server.speed import server
from benchmarks.support.ports import free_port
from benchmarks.webshop.steps import STEPS, script

SESSIONS, BATCHES, GOALS = 256, 2, 64  # several sessions have the same goal, like the episodes of a group
WARM_UP = 3  # number of rounds before the measurement; they fill the caches, which are full in a long run
ENCODE = msgspec.json.encode


class ResultItem(msgspec.Struct):
    """One result in the reply to a batch. It has only the field that this benchmark reads."""

    ok: bool


class BatchReply(msgspec.Struct):
    """The reply to a batch."""

    results: list[ResultItem]


DECODER = msgspec.json.Decoder(BatchReply)


def scripts(round_number: int) -> list[list[str]]:
    """Return the actions of each session in a round: a search, then only clicks. Each round has other actions."""
    environment = load("benchmark", {})
    made = []
    for session in range(SESSIONS):
        seed = round_number * SESSIONS + session
        actions = script(environment, session % GOALS, seed=seed, search_share=0.0)
        made.append(actions[:STEPS])
    return made


async def play(url: str, actions: list[list[str]]) -> dict[str, float]:
    """Play the actions of one round on the server at `url`. Return the steps per second: "search" or "click" → rate.

    `actions`: the actions of each session.
    """
    seconds, steps = {"search": 0.0, "click": 0.0}, {"search": 0, "click": 0}
    async with aiohttp.ClientSession() as client:
        names: list[str] = []
        for first in range(0, SESSIONS, SESSIONS // BATCHES):
            seeds = range(first, first + SESSIONS // BATCHES)
            body = {"count": len(seeds), "reset": [{"index": seed % GOALS} for seed in seeds]}
            async with client.post(url + "/v1/sessions", json=body) as reply:
                names += [one["session_id"] for one in (await reply.json())["sessions"]]
        for number in range(STEPS):
            kind = "search" if number == 0 else "click"
            phase = [(name, moves[number]) for name, moves in zip(names, actions, strict=True)]
            begin = time.perf_counter()
            await asyncio.gather(*(_batch(client, url, phase[part::BATCHES]) for part in range(BATCHES)))
            seconds[kind] += time.perf_counter() - begin
            steps[kind] += len(phase)
        for name in names:
            async with client.delete(f"{url}/v1/sessions/{name}") as reply:
                assert reply.status == 204
    return {kind: steps[kind] / seconds[kind] for kind in steps}


async def _batch(client: aiohttp.ClientSession, url: str, phase: list[tuple[str, str]]) -> None:
    items = [{"session_id": name, "op": "step", "action": {"text": action}} for name, action in phase]
    async with client.post(url + "/v1/batch", data=ENCODE({"items": items})) as reply:
        results = DECODER.decode(await reply.read()).results
    assert all(result.ok for result in results)


def measure(rounds: int) -> dict[str, Any]:
    """Measure both servers in each round. Return the steps per second, separately for searches and clicks.

    `steps_per_s`: median of each server over the rounds. `of_the_rate_without_a_shop`: WebShop's steps per second,
    divided by those of the server without rules. This ratio is the median of the ratios of the rounds, because the
    speed of a machine can change between rounds. `rounds`: steps per second of each round.
    """
    rates: dict[str, list[dict[str, float]]] = {"webshop": [], "noop": []}
    ports = {name: free_port() for name in rates}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    serve = [sys.executable, "-m", "arlarena.env_server"]
    options = ["--capacity", "1024", "--port"]
    prepared = [scripts(number) for number in range(WARM_UP + rounds)]
    assert all(parse_action(action) for moves in prepared for actions in moves for action in actions)
    with (
        server([*serve, "benchmarks.alfworld.noop_environment", *options, str(ports["noop"])], urls["noop"]),
        server([*serve, "arlarena.environments.webshop.environment", *options, str(ports["webshop"])], urls["webshop"]),
    ):
        for number, actions in enumerate(prepared):
            for name, url in urls.items():
                rate = asyncio.run(play(url, actions))
                if number >= WARM_UP:
                    rates[name].append(rate)
    medians = {
        name: {kind: round(statistics.median(one[kind] for one in found), 1) for kind in ("click", "search")}
        for name, found in rates.items()
    }
    pairs = list(zip(rates["webshop"], rates["noop"], strict=True))
    ratios = {
        kind: round(statistics.median(ours[kind] / noop[kind] for ours, noop in pairs), 3)
        for kind in ("click", "search")
    }
    return {"steps_per_s": medians, "of_the_rate_without_a_shop": ratios, "rounds": rates}
