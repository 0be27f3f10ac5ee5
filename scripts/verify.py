"""Checks the documented results of one part of ARLArena at full size: `make verify PART=NAME`.

The benchmarks write their results to benchmarks/results/.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = "benchmarks/results"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of ARLArena, with the commands that check it.

    Attributes:
        description: what the commands check, and how long they take.
        commands: arguments of Python for each command, in order.
        extras: the optional Python environments that the commands need (`make setup EXTRA=…`).
    """

    description: str
    commands: tuple[tuple[str, ...], ...]
    extras: tuple[str, ...] = ()


def tests(*paths: str) -> tuple[str, ...]:
    """Return the command that runs the tests in `paths`: arguments of Python."""
    return ("-m", "pytest", "-q", "-rs", *paths)


def benchmark(module: str, result: str, *flags: str) -> tuple[str, ...]:
    """Return the command that runs a benchmark: arguments of Python.

    Args:
        module: module in the package `benchmarks`.
        result: name of the result file in `RESULTS`, without `.json`.
        flags: further arguments of the benchmark.
    """
    return ("-m", f"benchmarks.{module}", *flags, "--out", f"{RESULTS}/{result}.json")


PARTS = {
    "demo": Part("the demo and its control runs on three seeds: about an hour", (("-m", "benchmarks.demo.verify"),)),
    "env": Part(
        "the environment server: soak test, fuzzing, 4,096 sessions, speed compared with OpenEnv: 15 minutes",
        (
            tests("tests/contract/env_server/api/test_openenv_client.py", "tests/contract/client/test_examples.py"),
            benchmark("env_server.soak", "env_soak"), benchmark("env_server.fuzz", "env_fuzz"),
            benchmark("env_server.scale", "env_scale", "--sessions", "4096"),
            benchmark("env_server.speed", "env_server"),
        ),
        ("openenv", "fuzz", "verifiers", "trl"),
    ),
    "trainer": Part(
        "the trainer: pretrained weights, exact numerics, speed compared with TRL: 10 minutes",
        (tests("tests/numerics", "tests/integration/trainer"), benchmark("trainer.speed", "trainer")),
        ("trl", "smollm2"),
    ),
    "inference": Part(
        "the policy server: the same tests for both engines, pushes while servers are killed, speed compared with vLLM",
        (
            tests("tests/contract/inference", "tests/integration/inference", "tests/numerics/inference"),
            benchmark("weights.push_soak", "push_soak"), benchmark("weights.speed", "weight_push"),
            benchmark("rollout.speed", "rollout_trace", "--trace"), benchmark("inference.speed", "inference"),
        ),
        ("vllm",),
    ),
    "vllm": Part(
        "vLLM on the CPU as the engine of the demo, and the detection of a wrong output layer: 6 minutes",
        (tests("tests/integration/inference/test_vllm.py"), benchmark("inference.verify_vllm", "vllm")),
        ("vllm",),
    ),
    "alfworld": Part(
        "ALFWorld: 108 games compared with TextWorld, 1,000 games, speed, alfworld-tiny on three seeds: over an hour",
        (
            benchmark("alfworld.oracle", "alfworld_oracle"), benchmark("alfworld.games", "alfworld_games"),
            ("-m", "benchmarks.alfworld.verify"), benchmark("alfworld.speed", "alfworld_speed"),
        ),
        ("alfworld",),
    ),
    "webshop": Part(
        "WebShop: tests, speed and memory up to 1.18 million products, webshop-tiny on 3 seeds: hours, 10 GB of disk",
        (tests("tests/unit/environments/webshop"), benchmark("webshop.speed", "webshop"),
         ("-m", "benchmarks.webshop.verify")),
        ("webshop",),
    ),
    "sandbox": Part(
        "the sandbox: attacks (with Docker also in containers), speed compared with a new Python process: 10 minutes",
        (tests("tests/integration/sandbox", "tests/contract/environments/test_tir_math_server.py"),
         benchmark("sandbox.speed", "sandbox")),
    ),
    "tir_math": Part(
        "TIR Math: tir-math-tiny on three seeds, with GSPO, and with advantages of 0: half an hour",
        (("-m", "benchmarks.tir_math.verify"),),
    ),
    "faults": Part(
        "planted faults: for each fault in the code, a quick test fails: 15 minutes",
        (("scripts/planted_faults.py",),),
    ),
}  # fmt: skip


def main() -> int:
    """Run the commands of each part that the command line names.

    Return the exit status of the first command that fails, else 0. Return 2 if a part does not exist.
    """
    names = sys.argv[1:]
    if not names or set(names) - set(PARTS):
        print("usage: make verify PART=NAME, where NAME is one of")
        for name, part in PARTS.items():
            print(f"  {name:10} {part.description}")
        return 2
    for part in (PARTS[name] for name in names):
        subprocess.run([sys.executable, "scripts/setup.py", *part.extras], cwd=ROOT, check=True)
        for command in part.commands:
            python = sys.executable
            variables = os.environ | {"OMP_NUM_THREADS": "1"}
            if "benchmarks.alfworld.oracle" in command:  # needs the Python environment with TextWorld
                python = ".venv-alfworld/bin/python"
                variables["PYTHONPATH"] = "environments/alfworld:environments/sdk:proto"
            print("running", *command, flush=True)
            if code := subprocess.run([python, *command], cwd=ROOT, env=variables, check=False).returncode:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
