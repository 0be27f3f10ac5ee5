"""Compares the sandbox with a new Python process for each program, and with a new Python process in bubblewrap.

    apt install bubblewrap && python -m benchmarks.sandbox.speed --out benchmarks/results/sandbox.json

* `per_s`: executions per second of a program that uses numpy and sympy, with one concurrent execution per core. Each
  round measures the three ways to run the program. The medians are compared. In bubblewrap, the program has no network,
  has its own process namespace, and can only read the libraries. If bubblewrap is not installed, or the host forbids
  bubblewrap, its results are missing.
* `latency`: milliseconds from the call of the sandbox to the result, with 1, 4 and 32 concurrent executions.
* `soak`: many executions in the sandbox. The result contains the number of remaining processes. It also contains the
  open descriptors and the memory of two processes before and after the executions: this process and the zygote. (For
  each execution, the sandbox forks the zygote.)
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
    """Run `PROGRAM` in a new Python process. Return its output."""
    return output([sys.executable, "-I", "-c", PROGRAM])


def bubblewrapped() -> str:
    """Run `PROGRAM` in a new Python process in bubblewrap. Return its output."""
    libraries = [word for path in ("/usr", "/lib", "/lib64", "/etc/alternatives", sys.prefix, sys.base_prefix)
            if Path(path).exists() for word in ("--ro-bind", path, path)]  # fmt: skip
    command = [
        "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        *libraries,
        "--proc",
        "/proc",
    ]
    return output([*command, "--dev", "/dev", sys.executable, "-I", "-c", PROGRAM])


def output(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True).stdout


def latencies(run: Callable[[], str], in_flight: int, count: int) -> dict[str, float]:
    """Call `run` `count` times, with `in_flight` concurrent calls. Return percentiles of the durations in ms."""

    def one(_: int) -> float:
        begun = time.perf_counter()
        assert run() == ANSWER
        return time.perf_counter() - begun

    with ThreadPoolExecutor(in_flight) as pool:
        seconds = sorted(pool.map(one, range(count)))
    return {
        "p50_ms": round(1000 * seconds[len(seconds) // 2], 1),
        "p99_ms": round(1000 * seconds[int(0.99 * len(seconds))], 1),
    }


def soak(sandbox: ForkSandbox, count: int, in_flight: int) -> dict[str, Any]:
    """Run `count` programs in the sandbox, with `in_flight` concurrent executions. Return the measurements.

    They include the number of wrong results, the number of remaining processes, and the open descriptors and memory
    before and after the executions. The memory is in MB (1,048,576 bytes).
    """
    ours, zygote = psutil.Process(), psutil.Process(sandbox.zygote_pid)

    def resources() -> dict[str, float]:
        return {
            "descriptors": ours.num_fds(),
            "descriptors_of_zygote": zygote.num_fds(),
            "memory_mb": round(ours.memory_info().rss / 2**20, 1),
            "memory_of_zygote_mb": round(zygote.memory_info().rss / 2**20, 1),
        }

    def share(first: int) -> int:
        return sum(sandbox.run(f"print({number})").stdout != f"{number}\n" for number in range(first, count, in_flight))

    with ThreadPoolExecutor(in_flight) as pool:
        warm = [pool.submit(sandbox.run, f"print({number})") for number in range(100)]
        assert [one.result().stdout for one in warm] == [f"{number}\n" for number in range(100)]
        before, begun = resources(), time.perf_counter()
        wrong = sum(pool.map(share, range(in_flight)))
        seconds = time.perf_counter() - begun
        after = resources()
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
    """Measure speed, latency and the soak test, check the claims and write the result. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="duration of each round")
    parser.add_argument("--soak", type=int, default=10_000, help="number of executions of the soak test")
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
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    latency = {str(in_flight): latencies(peers["fork"], in_flight, 500) for in_flight in (1, 4, 32)}
    left = soak(sandbox, args.soak, cores)
    layers = sandbox.health().layers
    sandbox.close()
    ratio = round(medians["fork"] / medians["cold"], 1)
    wrapped = medians.get("bubblewrap")
    grown = max(left["after"][name] - left["before"][name] for name in ("memory_mb", "memory_of_zygote_mb"))
    clean = left["wrong"] == left["processes_left"] == left["restarts"] == 0 and grown < 4
    opened = [left["after"][name] - left["before"][name] for name in ("descriptors", "descriptors_of_zygote")]
    clean = clean and opened == [0, 0]
    return finish(
        {
            "layers": layers,
            "in_flight": cores,
            "per_s": {name: round(value, 2) for name, value in medians.items()},
            "rounds": {name: [round(value, 2) for value in values] for name, values in rounds.items()},
            "of_bubblewrap": None if wrapped is None else round(medians["fork"] / wrapped, 1),
            "latency": latency,
            "soak": left,
            "claims": [
                {
                    "claim": "executions per second, as a multiple of those with a new Python process",
                    "is": ratio,
                    "wanted": 25.0,
                },
                {"claim": "the soak test leaves no process, descriptor or memory", "is": clean, "wanted": True},
            ],
            "passed": ratio >= 25 and clean,
        },
        args.out,
    )


if __name__ == "__main__":
    sys.exit(main())
