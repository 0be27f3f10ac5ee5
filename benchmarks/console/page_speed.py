"""Measures the run page on a run with 100,000 episodes.

    python -m benchmarks.console.page_speed [--episodes 100000] [--out benchmarks/results/page.json]

The run is written to a temporary folder: 400 recorded steps with figures, and evaluations, with the texts and tokens of
Sokoban. `arlarena view` is started twice: first without an index, then with it. Times are wall times of HTTP requests
from this process. Limits (issue 24): a page with an index opens in 2 s; a turn in 100 ms; 300 MB of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

from arlarena.proto.records.episode_lines import EpisodeLine, TurnLine
from arlarena.proto.records.group_records import (
    FOLDER,
    GroupRecord,
    MemberRecord,
    StepRecord,
    TurnFigures,
    encode_frame,
    record_path,
    write_records,
)
from arlarena.proto.trajectory import (
    Group,
    PolicyVersion,
    Sampling,
    Task,
    Trajectory,
    Turn,
    VersionSpan,
    pack_floats,
    pack_ids,
)
from benchmarks.support.results import finish

OPEN_S, TURN_S, MEMORY_MB = 2.0, 0.1, 300.0
GROUP_SIZE, TURNS, PROMPT, RESPONSE, STEPS = 8, 8, 60, 12, 400
WORDS = ("up", "down", "left", "right")
VERSION = PolicyVersion("bench", 1, "d1")
EVALUATED_SHARE = 0.2


def make_group(draw: random.Random, numbers: np.random.Generator, step: int, index: int) -> GroupRecord:
    """Returns a group of `GROUP_SIZE` episodes with figures."""
    episodes, members = [], []
    for member in range(GROUP_SIZE):
        turns, figures, success = [], [], draw.random() < 0.5
        for number in range(draw.randint(2, 2 * TURNS - 2)):
            word, state = draw.choice(WORDS), f"{index}-{draw.randrange(20)}"
            board = "\n".join("".join(draw.choices("#_", k=7)) for _ in range(7))
            log_probs = -numbers.random(RESPONSE)
            turns.append(
                Turn(
                    new_prompt_ids=pack_ids(numbers.integers(0, 200, PROMPT)),
                    response_ids=pack_ids(numbers.integers(0, 200, RESPONSE)),
                    logprobs=pack_floats(log_probs),
                    loss_mask=b"\1" * RESPONSE,
                    spans=(VersionSpan(0, RESPONSE, VERSION),),
                    reward=-0.1,
                    state_key=state,
                    observation_key=state,
                    action_valid=draw.random() < 0.95,
                    format_valid=True,
                    finish_reason="stop",
                    observation=f"{board}\nyou {number} box {draw.randrange(9)} goal {draw.randrange(9)}",
                    response=f"<think>push {word}</think><action>{word}</action>",
                    action=word,
                    admissible_actions=WORDS,
                )
            )
            values = [pack_floats(numbers.random(RESPONSE)) for _ in range(4)]
            figures.append(TurnFigures(values[0], values[1], values[2], bytes(RESPONSE), b"", values[3]))
        credit = tuple(numbers.normal(size=len(turns)).tolist())
        members.append(MemberRecord("trained", "", 1, credit, credit, credit, (1,) * len(turns), tuple(figures)))
        episodes.append(
            Trajectory(f"g{index}-{member}", 0, tuple(turns), success, not success, float(success), success)
        )
    task = Task("sokoban", "train", index)
    group = Group(f"g{index:06d}", task, GROUP_SIZE, tuple(episodes), Sampling(), VERSION, VERSION)
    return GroupRecord(group, "trained", "", tuple(members), step, 0)


def make_run(run: Path, episodes: int) -> None:
    """Write a finished run with `episodes` episodes. Each group of `WORDS` is written many times, to save time."""
    draw, numbers = random.Random(0), np.random.default_rng(0)
    for folder in (run, run / FOLDER, run / "episodes"):
        folder.mkdir()
    (run / "run.json").write_text('{"id": "bench", "name": "bench", "schema": 3, "finished": true}')
    (run / "config.toml").write_text('[environment]\nname = "sokoban"\n[trainer]\nrecipe = "sampo"\n')
    evaluated = int(episodes * EVALUATED_SHARE)
    groups = (episodes - evaluated) // GROUP_SIZE
    per_step = -(-groups // STEPS)
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, STEPS + 1):
            values = {f"metric_{number}": draw.random() for number in range(70)}
            file.write(json.dumps({"step": step, "success_rate": draw.random()} | values) + "\n")
    head = StepRecord(0, str(VERSION), "sampo", "trajectory", 0.03, 0.04, None, "bypass", True, {"trained": per_step})
    for step in range(1, STEPS + 1):
        first = (step - 1) * per_step
        made = [make_group(draw, numbers, step, index) for index in range(first, min(groups, first + per_step))]
        write_records(record_path(run, step), [encode_frame(msgspec.structs.replace(head, step=step)),
                                               *map(encode_frame, made)])  # fmt: skip
    for label in ("before", "after"):
        with (run / "episodes" / f"{label}.jsonl").open("wb") as file:
            for number in range(evaluated // 2):
                file.write(msgspec.json.encode(_line(draw, number)) + b"\n")


def _line(draw: random.Random, number: int) -> EpisodeLine:
    turns = tuple(
        TurnLine(
            turn=place,
            observation="\n".join("".join(draw.choices("#_", k=7)) for _ in range(7)),
            response="<think>push up</think><action>up</action>",
            action=draw.choice(WORDS),
            state_key=f"{number}-{place}",
            response_tokens=RESPONSE,
        )
        for place in range(draw.randint(2, 2 * TURNS - 2))
    )
    return EpisodeLine(f"test-{number}-0", f"sokoban/test/{number}", turns, success=draw.random() < 0.5)


class View:
    """A running `arlarena view`."""

    def __init__(self, run: Path, cache: Path) -> None:
        self.started = time.monotonic()
        command = (sys.executable, "-m", "arlarena.console", "view", run, "--port", "0", "--cache-dir", cache)
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        self._port = json.loads(self.process.stdout.readline())["port"]
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)

    def get(self, path: str) -> tuple[Any, float]:
        """Returns the reply and the time of the request in seconds."""
        began = time.perf_counter()
        self._connection.request("GET", path)
        reply = self._connection.getresponse()
        data = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{path}: {reply.status} {data[:200]!r}")
        return json.loads(data), time.perf_counter() - began

    def memory_mb(self) -> float:
        """Returns the peak of the resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def cpu_s(self) -> float:
        """Returns the CPU time of the server so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system


@contextlib.contextmanager
def view(run: Path, cache: Path) -> Iterator[View]:
    """Start `arlarena view`, and stop it at the end of the block."""
    started = View(run, cache)
    try:
        yield started
    finally:
        started.process.terminate()
        started.process.wait(30)


def build_index(page: View, episodes: int) -> dict[str, Any]:
    """Wait for the first index. Returns its duration, and the slowest list of episodes meanwhile."""
    slowest, shares = 0.0, 0
    while True:
        reply, seconds = page.get("/api/runs/run/episodes?limit=50")
        slowest, shares = max(slowest, seconds), shares + (0 < reply["indexed"] < 1)
        state = page.get("/api/runs")[0]["runs"][0]["index"]
        if state["ready"]:
            break
        time.sleep(0.5)
    seconds = time.monotonic() - page.started
    found = {"seconds": seconds, "cpu_s": page.cpu_s(), "episodes_per_s": episodes / seconds}
    return found | {"progress_seen": shares, "slowest_list_s": slowest, "memory_mb": page.memory_mb()}


def open_page(page: View) -> float:
    """Send the requests of an opening page. Returns the seconds since the start of the server's process."""
    for path in ("runs", "runs/run", "metrics", "series?metrics=success_rate", "runs/run/facets", "runs/run/episodes"):
        page.get(f"/api/{path}")
    return time.monotonic() - page.started


def scrub(page: View, count: int) -> dict[str, float]:
    """Open random episodes and all of their turns. Returns percentiles of the time of a turn, in milliseconds."""
    draw, times = random.Random(1), list[float]()
    total = page.get("/api/runs/run/episodes?limit=0")[0]["total"]
    for _ in range(count):
        listed, _ = page.get(f"/api/runs/run/episodes?limit=1&offset={draw.randrange(total)}")
        episode, seconds = page.get(f"/api/runs/run/episodes/{listed['episodes'][0]['id']}")
        times.append(seconds)
        for turn in range(episode["turns"]):
            path = f"/api/runs/run/episodes/{episode['id']}/turns/{turn}"
            times.append(page.get(path)[1])
            times.append(page.get(f"{path}/visits")[1])
    return {f"p{share}_ms": 1000 * float(np.percentile(times, share)) for share in (50, 95, 100)}


def filters(page: View) -> dict[str, float]:
    """Returns the time of lists with filters, in milliseconds."""
    queries = {
        "text": "q=push+left",
        "phrase": "q=%22push+left%22&success=true",
        "deep_page": "offset=90000&limit=50",
        "sorted": "sort=return&order=desc&success=false",
        "range": "turns_min=10&invalid_min=1&step_min=100&step_max=200",
    }
    return {name: 1000 * page.get(f"/api/runs/run/episodes?{query}")[1] for name, query in queries.items()}


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="page-speed-") as name:
        folder = Path(name)
        make_run(folder / "run", args.episodes)
        size = sum(path.stat().st_size for path in (folder / "run").rglob("*") if path.is_file())
        with view(folder / "run", folder / "cache") as page:
            first = build_index(page, args.episodes)
        index = sum(path.stat().st_size for path in (folder / "cache").iterdir())
        with view(folder / "run", folder / "cache") as page:
            opened, opened_cpu = open_page(page), page.cpu_s()
            result: dict[str, Any] = {
                "episodes": page.get("/api/runs/run/episodes?limit=0")[0]["total"],
                "run_mb": size / 1e6,
                "index_mb": index / 1e6,
                "first_index": first,
                "open_s": opened,
                "open_cpu_s": opened_cpu,
                "turn": scrub(page, 50),
                "list_ms": filters(page),
                "memory_mb": page.memory_mb(),
            }
    result["limits"] = {"open_s": OPEN_S, "turn_s": TURN_S, "memory_mb": MEMORY_MB}
    result["passed"] = (
        opened <= OPEN_S
        and result["turn"]["p100_ms"] <= 1000 * TURN_S
        and max(result["memory_mb"], first["memory_mb"]) <= MEMORY_MB
        and first["progress_seen"] > 0
    )
    return finish(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
