"""Checks the claims of a part at full size: `make verify PART=NAME`. The results go to benchmarks/results/."""

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
    """The commands of a part, in order, and the optional environments that the commands need."""

    what: str
    commands: tuple[tuple[str, ...], ...]
    extras: tuple[str, ...] = ()


def tests(*paths: str) -> tuple[str, ...]:
    """Return the command that runs these tests."""
    return ("-m", "pytest", "-q", "-rs", *paths)


def benchmark(module: str, result: str, *flags: str) -> tuple[str, ...]:
    """Return the command that runs a module of `benchmarks` and writes its result."""
    return ("-m", f"benchmarks.{module}", *flags, "--out", f"{RESULTS}/{result}.json")


PARTS = {
    "demo": Part("the demo on three seeds, with its controls: about an hour", (("-m", "benchmarks.demo.verify"),)),
    "env": Part(
        "the environment server: soak, fuzz, 4,096 sessions, beside OpenEnv's: a quarter of an hour",
        (
            tests("tests/contract/env_server/api/test_openenv_client.py", "tests/contract/client/test_examples.py"),
            benchmark("env_server.soak", "env_soak"), benchmark("env_server.fuzz", "env_fuzz"),
            benchmark("env_server.scale", "env_scale"), benchmark("env_server.speed", "env_server"),
        ),
        ("openenv", "fuzz", "verifiers", "trl"),
    ),
    "trainer": Part(
        "the trainer: real weights, exact numerics, speed beside TRL: 10 minutes",
        (tests("tests/numerics", "tests/integration/trainer"), benchmark("trainer.speed", "trainer")),
        ("trl", "smollm2"),
    ),
    "inference": Part(
        "the policy server: one contract for both engines, pushes under kills, speed beside vLLM",
        (
            tests("tests/contract/inference", "tests/integration/inference", "tests/numerics/inference"),
            benchmark("weights.push_soak", "push_soak"), benchmark("weights.speed", "weight_push"),
            benchmark("rollout.speed", "rollout_trace", "--trace"), benchmark("inference.speed", "inference"),
        ),
        ("vllm",),
    ),
    "vllm": Part(
        "vLLM on the CPU as the engine of the demo's loop, and a planted stale head: 6 minutes",
        (tests("tests/integration/inference/test_vllm.py"), benchmark("inference.verify_vllm", "vllm")),
        ("vllm",),
    ),
    "alfworld": Part(
        "ALFWorld: 108 games beside TextWorld, 1,000 games, speed, the tiny recipe on three seeds: over an hour",
        (
            benchmark("alfworld.oracle", "alfworld_oracle"), benchmark("alfworld.games", "alfworld_games"),
            ("-m", "benchmarks.alfworld.verify"), benchmark("alfworld.speed", "alfworld_speed"),
        ),
        ("alfworld",),
    ),
    "sandbox": Part(
        "the sandbox: attacks (in containers too where there is Docker), speed beside a cold Python: 10 minutes",
        (tests("tests/integration/sandbox", "tests/contract/environments/test_tir_math_server.py"),
         benchmark("sandbox.speed", "sandbox")),
    ),
    "tir_math": Part(
        "TIR Math: the tiny recipe on three seeds, its fallback and its control: half an hour",
        (("-m", "benchmarks.tir_math.verify"),),
    ),
    "faults": Part(
        "faults planted in the code, each of which a quick test catches: a quarter of an hour",
        (("scripts/planted_faults.py",),),
    ),
}  # fmt: skip


def main() -> int:
    """Run the named parts."""
    names = sys.argv[1:]
    if not names or set(names) - set(PARTS):
        print("usage: make verify PART=NAME, where NAME is one of")
        for name, part in PARTS.items():
            print(f"  {name:10} {part.what}")
        return 2
    for part in (PARTS[name] for name in names):
        subprocess.run([sys.executable, "scripts/setup.py", *part.extras], cwd=ROOT, check=True)
        for command in part.commands:
            python = sys.executable
            variables = os.environ | {"OMP_NUM_THREADS": "1"}
            if "benchmarks.alfworld.oracle" in command:  # runs where TextWorld is
                python = ".venv-alfworld/bin/python"
                variables["PYTHONPATH"] = "environments/alfworld:environments/sdk:proto"
            print("running", *command, flush=True)
            if code := subprocess.run([python, *command], cwd=ROOT, env=variables, check=False).returncode:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
