"""Measures the queue of groups in the broker, with groups as large as those of an ALFWorld run with Qwen3-8B.

    python -m benchmarks.streams.large_groups --out benchmarks/results/large_groups.json

A group has 8 episodes of 25 turns. Each turn has a new prompt of 1,000 tokens, a response of 150 tokens, and the texts
of prompt and response. Each prompt repeats the history, so all its tokens are sent. The token ids are random, which
does not affect the speed. One Python process issues, leases, completes, collects and acknowledges the groups, like
trainer and worker. The connection has no TLS. `docs/explanation/scale.md` uses the results.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from arlarena.console.launch.broker import Broker
from arlarena.proto.streams.queue import Streams
from arlarena.proto.trajectory import (
    Group,
    GroupTask,
    PolicyVersion,
    Sampling,
    Task,
    Trajectory,
    Turn,
    decode_group,
    encode,
)
from benchmarks.support.random_turns import random_turn
from benchmarks.support.results import finish

EPISODES, TURNS, PROMPT, RESPONSE = 8, 25, 1000, 150
CHARS_PER_TOKEN = 4  # for English text and the tokenizer of Qwen3
VERSION = PolicyVersion("run", 7, "0" * 16)
REPEATS = 5


def large_group(group_id: str, seed: int) -> Group:
    """Returns a group of `EPISODES` episodes with random content. `seed`: seed of the content."""
    rng = np.random.default_rng(seed)

    def turn() -> Turn:
        return random_turn(
            rng,
            VERSION,
            PROMPT,
            RESPONSE,
            observation=rng.bytes(200).hex(),
            response=rng.bytes(RESPONSE * CHARS_PER_TOKEN // 2).hex(),
            action="go to fridge 1",
        )

    episodes = tuple(
        Trajectory(f"{group_id}-{i}", i, tuple(turn() for _ in range(TURNS)), True, False, 1.0, True)
        for i in range(EPISODES)
    )
    return Group(group_id, task_of(group_id).task, EPISODES, episodes, Sampling(), VERSION, VERSION, "worker")


def task_of(group_id: str) -> GroupTask:
    """Returns the task of the group `group_id`, as the trainer issues it."""
    return GroupTask(group_id, Task("alfworld", "train", 0), EPISODES, Sampling())


def median_ms(action: Callable[[], object]) -> float:
    """Calls `action` 20 times. Returns the median duration of a call in milliseconds."""
    durations = []
    for _ in range(20):
        started = time.perf_counter()
        action()
        durations.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(durations), 2)


async def queue_rounds(url: str, groups: list[Group]) -> list[dict[str, float]]:
    """Sends all groups through the broker at `url`, `REPEATS` times.

    Returns the seconds of publishing and of collecting all groups, for each round.
    """
    rounds = []
    async with await Streams.connect(url, "large") as streams:
        for _ in range(REPEATS):
            await streams.issue([task_of(group.id) for group in groups])
            started = time.perf_counter()
            for group in groups:
                lease = await streams.lease(consumer="worker", block_s=1)
                assert lease is not None
                assert await streams.complete(lease, group)
            published = time.perf_counter()
            entries: dict[str, str] = {}
            while len(entries) < len(groups):
                for entry in await streams.collect(consumer="trainer", count=8, block_s=1):
                    entries[entry.stream_id] = entry.group_id
            collected = time.perf_counter()
            await streams.acknowledge(entries)
            rounds.append({"publish_s": published - started, "collect_s": collected - published})
    return rounds


def measure(count: int) -> dict[str, Any]:
    """Runs the benchmark with `count` groups. Returns the result."""
    groups = [large_group(f"g{i}", i) for i in range(count)]
    data = encode(groups[0])
    with tempfile.TemporaryDirectory(prefix="arlarena-large-") as folder, Broker(Path(folder)) as broker:
        rounds = asyncio.run(queue_rounds(broker.url, groups))
    megabytes = count * len(data) / 1e6
    best = {name: min(one[name] for one in rounds) for name in rounds[0]}
    return {
        "group": {"episodes": EPISODES, "turns": TURNS, "prompt_tokens": PROMPT, "response_tokens": RESPONSE},
        "bytes": len(data),
        "encode_ms": median_ms(lambda: encode(groups[0])),
        "decode_ms": median_ms(lambda: decode_group(data)),
        "groups": count,
        "publish_mb_per_s": round(megabytes / best["publish_s"], 1),
        "collect_mb_per_s": round(megabytes / best["collect_s"], 1),
        "rounds": [{name: round(value, 3) for name, value in one.items()} for one in rounds],
        "passed": True,
    }


def main() -> int:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=32, help="number of groups of one round")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    return finish(measure(args.groups), args.out)


if __name__ == "__main__":
    sys.exit(main())
