"""Measures the run page on a run with 100,000 episodes.

    python -m benchmarks.console.page_speed [--episodes 100000] [--out benchmarks/results/page.json]

The run (`benchmarks/console/recorded_run.py`) has 400 recorded steps with figures of each token, and two evaluations.
Its texts are as long as those of Sokoban. The benchmark starts `arlarena view` twice: without an index (`cold`), and
with an index (`warm`). It measures these wall times:

- `open_s`: from the start of the server process until the server has answered all requests of two views. The views are
  the view of a run, and a list of episodes that is not empty. `indexed` is the share of indexed episodes at this time.
- `index_s`: from the start of the server process until the index contains all episodes.
- `browser.open_ms`: from the first request of headless Chromium until the view of the run is shown, without cached
  files.
- `turn_ms`: one request for an episode, for a turn, or for the visits of the turn's state.
- `browser.turn_ms`: from the key press until the browser has painted the turn.

`load_average` is the machine's load average over one minute. Other processes make the times longer.

Limits: 2 s for `open_s` (cold and warm), 100 ms for a turn (95th percentile), 300 MB for the memory of the server.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.console.recorded_run import make_run
from benchmarks.support.results import finish

OPEN_S, TURN_S, MEMORY_MB = 2.0, 0.1, 300.0
# The routes below /api that the view of a run requests. The last route is the list of the run's episodes.
VIEW = ("runs", "runs/run", "runs/run/alarms", "runs/run/facets", "runs/run/episodes?limit=50")
EPISODES, BROWSED_EPISODES, OPENED = 50, 10, 5
# A script that measures the time from a key press until the browser has painted the turn. It runs in the browser tab,
# so the time does not include Playwright.
WATCH = """
window.times = [];
addEventListener("keydown", () => { window.pressed = performance.now(); }, true);
addEventListener("DOMContentLoaded", () => new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => {
  if (window.pressed) window.times.push((performance.now() - window.pressed) / 1000);
}))).observe(document.getElementById("main"), {attributes: true, attributeFilter: ["data-turn"]}));
"""


class View:
    """A running `arlarena view`."""

    def __init__(self, run: Path, cache: Path) -> None:
        self.started = time.monotonic()
        command = (sys.executable, "-m", "arlarena.console", "view", run, "--port", "0", "--cache-dir", cache)
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        self.port = json.loads(self.process.stdout.readline())["port"]
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    def get(self, path: str) -> tuple[Any, float]:
        """Sends a GET request. Returns (JSON of the reply, duration of the request in seconds).

        Raises:
            RuntimeError: the status of the reply is not 200.
        """
        began = time.perf_counter()
        self._connection.request("GET", path)
        reply = self._connection.getresponse()
        data = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{path}: {reply.status} {data[:200]!r}")
        return json.loads(data), time.perf_counter() - began

    def memory_mb(self) -> float:
        """Returns the peak of the server's resident memory in MB (1,048,576 bytes)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def cpu_s(self) -> float:
        """Returns the CPU time of the server since its start, in seconds."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def view(run: Path, cache: Path) -> Iterator[View]:
    """Start `arlarena view` on a run, and stop it at the end of the block. `cache`: folder of the index."""
    started = View(run, cache)
    try:
        yield started
    finally:
        started.process.terminate()
        started.process.wait(30)


def opened(page: View) -> dict[str, Any]:
    """Request the routes in `VIEW`, and repeat the last request until it returns episodes.

    Returns `open_s` (wall time since the start of the server process), `cpu_s` (CPU time of the server), and `indexed`
    (share of the episodes that are indexed). Both times are in seconds.
    """
    replies = [page.get(f"/api/{path}")[0] for path in VIEW]
    while not replies[-1]["episodes"]:
        replies.append(page.get(f"/api/{VIEW[-1]}")[0])
    return {"open_s": time.monotonic() - page.started, "cpu_s": page.cpu_s(), "indexed": replies[-1]["indexed"]}


def indexed(page: View, episodes: int) -> dict[str, Any]:
    """Wait until the index contains all episodes. Returns measurements.

    The measurements are the duration and the CPU time in seconds, the indexed episodes per second, the number of
    replies before the end that showed progress, the slowest request for a list of episodes, and the server's memory.
    """
    slowest, shares, ready = 0.0, 0, False
    while not ready:
        time.sleep(0.5)
        reply, seconds = page.get(f"/api/{VIEW[-1]}")
        slowest, shares = max(slowest, seconds), shares + (0 < reply["indexed"] < 1)
        ready = page.get("/api/runs")[0]["runs"][0]["index"]["ready"]
    seconds = time.monotonic() - page.started
    found = {"index_s": seconds, "index_cpu_s": page.cpu_s(), "episodes_per_s": episodes / seconds}
    return found | {"progress_seen": shares, "slowest_list_ms": 1000 * slowest, "memory_mb": page.memory_mb()}


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Returns the 50th, 95th and 100th percentiles in milliseconds. `seconds`: times in seconds."""
    return {f"p{share}": 1000 * float(np.percentile(seconds, share)) for share in (50, 95, 100)}


def random_episodes(page: View, count: int) -> list[dict[str, Any]]:
    """Returns `count` random episodes of the run, as in the JSON of the page. An episode can occur twice."""
    draw = random.Random(1)
    total = page.get("/api/runs/run/episodes?limit=0")[0]["total"]
    path = "/api/runs/run/episodes?limit=1&offset="
    return [page.get(f"{path}{draw.randrange(total)}")[0]["episodes"][0] for _ in range(count)]


def scrub(page: View) -> dict[str, float]:
    """Request random episodes, all their turns, and the visits of each turn's state.

    Returns percentiles of the times of the requests in milliseconds.
    """
    times = list[float]()
    for episode in random_episodes(page, EPISODES):
        path = f"/api/runs/run/episodes/{episode['id']}"
        times.append(page.get(path)[1])
        for turn in range(episode["turns"]):
            times.append(page.get(f"{path}/turns/{turn}")[1])
            times.append(page.get(f"{path}/turns/{turn}/visits")[1])
    return percentiles(times)


def filters(page: View) -> dict[str, float]:
    """Requests a list of episodes with different filters. Returns filter → duration in milliseconds."""
    queries = {
        "text": "q=push+left",
        "phrase": "q=%22push+left%22&success=true",
        "deep_page": "offset=90000&limit=50",
        "sorted": "sort=return&order=desc&success=false",
        "range": "turns_min=10&invalid_min=1&step_min=100&step_max=200",
    }
    return {name: 1000 * page.get(f"/api/runs/run/episodes?{query}")[1] for name, query in queries.items()}


def browse(page: View) -> dict[str, Any] | None:
    """Open the view of the run in a browser, then go through the turns of random episodes.

    Returns percentiles of the times in milliseconds. Returns None if Playwright or Chromium is missing.
    """
    program = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        return None
    address, opens, turns = f"http://127.0.0.1:{page.port}/", list[float](), list[float]()
    episodes = random_episodes(page, BROWSED_EPISODES)  # before the server closes the idle connection
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        for _ in range(OPENED):
            tab = browser.new_context().new_page()  # a context has its own empty cache
            tab.add_init_script(WATCH)
            began = time.perf_counter()
            tab.goto(f"{address}#/run/run")
            tab.wait_for_selector("#summary")
            opens.append(time.perf_counter() - began)
        for episode in episodes:
            tab.goto("about:blank")
            tab.goto(f"{address}#/episode/run/{episode['id']}/0")
            tab.wait_for_selector("main[data-turn='0']")
            for turn in range(1, episode["turns"]):
                tab.keyboard.press("ArrowRight")
                while len(tab.evaluate("window.times")) < turn:
                    tab.wait_for_timeout(5)
            turns += tab.evaluate("window.times")
        browser.close()
    return {"open_ms": percentiles(opens), "turn_ms": percentiles(turns)}


def measure(folder: Path, episodes: int) -> dict[str, Any]:
    """Write a run with `episodes` episodes into `folder`, and measure the page. Returns the result of the benchmark."""
    run, cache = folder / "run", folder / "cache"
    make_run(run, episodes)
    load = os.getloadavg()[0]
    with view(run, cache) as page:
        cold = opened(page) | indexed(page, episodes)
    with view(run, cache) as page:
        warm = opened(page)
        result = {
            "episodes": page.get("/api/runs/run/episodes?limit=0")[0]["total"],
            "run_mb": sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) / 1e6,
            "index_mb": sum(path.stat().st_size for path in cache.iterdir()) / 1e6,
            "cold": cold,
            "warm": warm,
            "turn_ms": scrub(page),
            "list_ms": filters(page),
            "browser": browse(page),
            "memory_mb": page.memory_mb(),
        }
    result["load_average"] = {"before": load, "after": os.getloadavg()[0]}
    result["limits"] = {"open_s": OPEN_S, "turn_s": TURN_S, "memory_mb": MEMORY_MB}
    browsed = result["browser"] or {"open_ms": {"p100": 0.0}, "turn_ms": {"p95": 0.0}}
    result["passed"] = (
        max(cold["open_s"], warm["open_s"], browsed["open_ms"]["p100"] / 1000) <= OPEN_S
        and max(result["turn_ms"]["p95"], browsed["turn_ms"]["p95"]) <= 1000 * TURN_S
        and max(result["memory_mb"], cold["memory_mb"]) <= MEMORY_MB
        and warm["indexed"] == 1
    )
    return result


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="page-speed-") as name:
        return finish(measure(Path(name), args.episodes), args.out)


if __name__ == "__main__":
    sys.exit(main())
