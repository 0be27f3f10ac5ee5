"""Measures the WebShop environment: steps, search, start, memory, and steps over HTTP.

    make setup EXTRA=webshop && python -m benchmarks.webshop.speed --out benchmarks/results/webshop.json

* `steps`: CPU time and wall time of a step, compared with a shop that uses Flask and BeautifulSoup like the original
  WebShop (`flask_shop.py`). Both shops play the same random actions on the default catalogue of 10,000 products. Their
  pages must be equal.
* `search`: time of a query at 10,000, 100,000 and 1.18 million synthetic products (`corpus.py`), compared with bm25s
  and tantivy. Each engine has its own process (`engines.py`). The first run builds the indexes in the folder
  `--indexes`. This takes up to an hour.
* `start`: time from the start of a server with 1.18 million products to the reply to its first search. Before the
  start, the index's files are removed from the operating system's page cache.
* `session_bytes`: memory of a session in the middle of an episode.
* `http`: steps per second of 256 sessions in batches, compared with an environment without rules (`http_steps.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arlarena.environments.webshop.environment import load
from benchmarks.env_server.speed import server
from benchmarks.support.environment_server import ask
from benchmarks.support.paths import ROOT
from benchmarks.support.ports import free_port
from benchmarks.support.results import finish
from benchmarks.webshop import http_steps
from benchmarks.webshop.engines import ENGINES, build
from benchmarks.webshop.steps import compare_steps, session_bytes

SIZES = (10_000, 100_000, 1_180_000)
LARGEST = SIZES[-1]
RANKS = 10  # number of compared results of each query
STEP_CLAIM = "speed of a step by {}, as a multiple of that with Flask and BeautifulSoup"


def measure_search(folder: Path, skipped: set[tuple[str, int]]) -> dict[str, Any]:
    """Measure the search engines. Return number of products → engine → measurements.

    `overlap_with_bm25s` is the share of our 10 best products that are also among the 10 best products of bm25s.

    Args:
        folder: folder of the indexes.
        skipped: pairs (engine, number of products) that are not measured.
    """
    measured: dict[str, Any] = {}
    for count in SIZES:
        results = {}
        for engine in ENGINES:
            if (engine, count) not in skipped:
                results[engine] = _engine("query", engine, count, folder)
        found = {engine: result.pop("results") for engine, result in results.items()}
        measured[str(count)] = results
        if "bm25s" in found:
            measured[str(count)]["overlap_with_bm25s"] = _overlap(found["ours"], found["bm25s"])
    return measured


def _engine(command: str, engine: str, count: int, folder: Path) -> dict[str, Any]:
    arguments = [sys.executable, "-m", "benchmarks.webshop.engines", command, engine, str(count), str(folder)]
    done = subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _overlap(ours: list[list[int]], theirs: list[list[int]]) -> float:
    shared = [len(set(a[:RANKS]) & set(b[:RANKS])) / RANKS for a, b in zip(ours, theirs, strict=True)]
    return round(sum(shared) / len(shared), 4)


def cold_start_s(index: Path) -> dict[str, float]:
    """Start a server with the index `index`, which is not in the page cache. Return two durations in seconds.

    `ready_s`: from the start of the server to the first reply of `/health`. `first_search_s`: from the start of the
    server to the reply to the first search.

    Raises:
        SystemExit: the first search failed.
    """
    os.sync()
    for path in index.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with tempfile.TemporaryDirectory(prefix="arlarena-bench-") as folder:
        config = Path(folder) / "environment.toml"
        config.write_text(f'[environment]\nname = "webshop"\n[environment.options]\nindex = "{index}"\n')
        port = free_port()
        command = [sys.executable, "-m", "arlarena.env_server", "--config", str(config), "--port", str(port)]
        begin = time.perf_counter()
        with server(command, url := f"http://127.0.0.1:{port}", WEBSHOP_DATA=""):
            ready = time.perf_counter() - begin
            opened = ask(url + "/v1/sessions", {"reset": [{"index": 0}]})[1]["sessions"][0]
            step = {"session_id": opened["session_id"], "action": {"text": "search[qbx qcx qabx]"}, "step_index": 0}
            status, answer = ask(url + "/step", step)
            if status != 200 or "Total results: 50" not in answer["observation"]["text"]:
                raise SystemExit(f"error: the first search failed: {answer}")
            return {"ready_s": round(ready, 2), "first_search_s": round(time.perf_counter() - begin, 2)}


def claims_of(result: Mapping[str, Any]) -> list[tuple[str, float, float, bool]]:
    """Return the claims about the result as tuples (claim, measured value, limit, is_minimum).

    If `is_minimum` is true, the measured value must be at least the limit. Otherwise it must be at most the limit.
    """
    search = result["search"]
    return [
        (STEP_CLAIM.format("CPU time"), result["steps"]["cpu"]["ratio"], 50.0, True),
        (STEP_CLAIM.format("the wall clock"), result["steps"]["wall"]["ratio"], 50.0, True),
        ("p50 of a search at 100,000 products, ms", search["100000"]["ours"]["p50_ms"], 2.0, False),
        ("p50 of a search at 1.18 million products, ms", search[str(LARGEST)]["ours"]["p50_ms"], 20.0, False),
        ("cold start to the first search at 1.18 million products, s", result["start"]["first_search_s"], 5.0, False),
        ("memory of a session, MB", round(result["session_bytes"] / 1e6, 4), 0.2, False),
        (
            "clicks per second in batches at 256 sessions, as a share of the rate without a shop",
            result["http"]["of_the_rate_without_a_shop"]["click"], 0.4, True,
        ),
    ]  # fmt: skip


def main() -> int:
    """Measure everything, check the claims and write the result. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--indexes", type=Path, default=ROOT / "runs" / "webshop-indexes", help="folder of the indexes")
    parser.add_argument("--rounds", type=int, default=15, help="number of rounds of `http`")
    parser.add_argument(
        "--skip", nargs="*", default=[], metavar="ENGINE:PRODUCTS", help="searches to skip, such as bm25s:1180000"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ["WEBSHOP_DATA"] = ""  # selects the default catalogue
    skipped = {(engine, int(count)) for engine, _, count in (text.partition(":") for text in args.skip)}
    environment = load("benchmark", {})
    compare_steps(environment)  # warm-up: fills the caches of both shops, which are full in a long run
    result: dict[str, Any] = {
        "steps": compare_steps(environment),
        "http": http_steps.measure(args.rounds),
        "session_bytes": round(session_bytes(environment)),
        "search": measure_search(args.indexes, skipped),
        "start": cold_start_s(build("ours", LARGEST, args.indexes)),
        "skipped": sorted(args.skip),
    }
    rows = [
        {"claim": claim, "is": value, "wanted": aim, "holds": value >= aim if least else value <= aim}
        for claim, value, aim, least in claims_of(result)
    ]
    return finish(result | {"claims": rows, "passed": all(row["holds"] for row in rows)}, args.out)


if __name__ == "__main__":
    sys.exit(main())
