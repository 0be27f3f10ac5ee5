"""The sandbox of forks beside a Python that is started for each program, and beside one within bubblewrap, in one run.

    apt install bubblewrap && python -m benchmarks.sandbox.speed --out benchmarks/results/sandbox.json

* `rates`: executions a second of a program that uses numpy and sympy, as many in flight as there are cores, in
  alternating rounds; medians are compared. bubblewrap is given what a careful user gives it: no network, its own
  processes and files, the libraries to read. Where it is not installed, or the host forbids it, its figures are null.
* `latency`: seconds from the call to the answer at 1, 4 and 32 in flight.
* `soak`: executions in a row, and what they left: processes, descriptors, memory of the zygote and of this process.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from arlarena.sandbox.forks import ForkSandbox, ForkSettings
from arlarena.sandbox.limits import ExecutionLimits
from arlarena.sandbox.zygote_client import ENVIRONMENT
from benchmarks.sandbox.program import ANSWER, PROGRAM, rate
from benchmarks.support.results import finish

ROUNDS = 3


def cold() -> str:
    """Run the program in a new Python process."""
    return said([sys.executable, "-I", "-c", PROGRAM])


def bubblewrapped() -> str:
    """Run the program in a new Python process in its own namespaces."""
    seen = [word for path in ("/usr", "/lib", "/lib64", "/etc/alternatives", sys.prefix, sys.base_prefix)
            if Path(path).exists() for word in ("--ro-bind", path, path)]  # fmt: skip
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", *seen, "--proc", "/proc"]
    return said([*command, "--dev", "/dev", sys.executable, "-I", "-c", PROGRAM])


def said(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True).stdout


def latencies(run: Callable[[], str], flight: int, count: int) -> dict[str, float]:
    """Return the latencies in milliseconds of `count` executions, `flight` at a time."""

    def one(_: int) -> float:
        begun = time.perf_counter()
        assert run() == ANSWER
        return time.perf_counter() - begun

    with ThreadPoolExecutor(flight) as pool:
        found = sorted(pool.map(one, range(count)))
    return {"p50_ms": round(1000 * found[len(found) // 2], 1), "p99_ms": round(1000 * found[int(0.99 * len(found))], 1)}


def soak(sandbox: ForkSandbox, count: int, flight: int) -> dict[str, Any]:
    """Run `count` executions, and return the processes, descriptors and memory that they leave behind."""
    ours, zygote = psutil.Process(), psutil.Process(sandbox.zygote_pid)

    def figures() -> dict[str, float]:
        return {
            "descriptors": ours.num_fds(),
            "descriptors_of_zygote": zygote.num_fds(),
            "memory_mb": round(ours.memory_info().rss / 2**20, 1),
            "memory_of_zygote_mb": round(zygote.memory_info().rss / 2**20, 1),
        }

    def share(first: int) -> int:
        return sum(sandbox.run(f"print({number})").stdout != f"{number}\n" for number in range(first, count, flight))

    with ThreadPoolExecutor(flight) as pool:
        warm = [pool.submit(sandbox.run, f"print({number})") for number in range(100)]
        assert [one.result().stdout for one in warm] == [f"{number}\n" for number in range(100)]
        before, begun = figures(), time.perf_counter()
        wrong = sum(pool.map(share, range(flight)))
        seconds = time.perf_counter() - begun
        after = figures()
    return {
        "executions": count,
        "per_s": round(count / seconds, 1),
        "wrong": wrong,
        "processes_left": len(zygote.children(recursive=True)),
        "restarts": sandbox.health().restarts,
        "before": before,
        "after": after,
    }


def main() -> int:
    """Measure, judge and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each round")
    parser.add_argument("--soak", type=int, default=10_000, help="executions in a row")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    cores = psutil.cpu_count() or 1
    sandbox = ForkSandbox(ForkSettings(limits=ExecutionLimits(), max_running=32))
    peers: dict[str, Callable[[], str]] = {"fork": lambda: sandbox.run(PROGRAM).stdout, "cold": cold}
    if shutil.which("bwrap"):
        try:
            bubblewrapped()
            peers["bubblewrap"] = bubblewrapped
        except subprocess.CalledProcessError as error:
            print(f"bubblewrap does not run here: {error}", file=sys.stderr)
    rounds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(ROUNDS):
        for name, run in peers.items():
            rounds[name].append(rate(run, args.seconds, cores))
    medians = {name: statistics.median(found) for name, found in rounds.items()}
    latency = {str(flight): latencies(peers["fork"], flight, 500) for flight in (1, 4, 32)}
    left = soak(sandbox, args.soak, cores)
    layers = sandbox.health().layers
    sandbox.close()
    times = round(medians["fork"] / medians["cold"], 1)
    wrapped = medians.get("bubblewrap")
    grown = max(left["after"][name] - left["before"][name] for name in ("memory_mb", "memory_of_zygote_mb"))
    clean = left["wrong"] == left["processes_left"] == left["restarts"] == 0 and grown < 4
    opened = [left["after"][name] - left["before"][name] for name in ("descriptors", "descriptors_of_zygote")]
    clean = clean and opened == [0, 0]
    return finish(
        {
            "layers": layers,
            "in_flight": cores,
            "per_s": {name: round(found, 2) for name, found in medians.items()},
            "rounds": {name: [round(one, 2) for one in found] for name, found in rounds.items()},
            "of_bubblewrap": None if wrapped is None else round(medians["fork"] / wrapped, 1),
            "latency": latency,
            "soak": left,
            "claims": [
                {"claim": "executions, times those of a cold Python", "is": times, "wanted": 25.0},
                {"claim": "nothing is left of the executions in a row", "is": clean, "wanted": True},
            ],
            "passed": times >= 25 and clean,
        },
        args.out,
    )


if __name__ == "__main__":
    sys.exit(main())
