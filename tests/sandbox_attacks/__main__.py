"""Runs every attack against a sandbox of the current user, with honest programs in parallel; prints a report in JSON.

    PYTHONPATH=tests python -m sandbox_attacks

Exits with 1 where an attack came through or an honest program did not.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from arlarena.sandbox.execution import Execution
from arlarena.sandbox.forks import ForkSandbox, ForkSettings
from arlarena.sandbox.limits import ExecutionLimits
from arlarena.sandbox.lockdown import GRACE_S
from sandbox_attacks import BREACH, Attack, Baits, attacks, baits
from sandbox_attacks.honest import HONEST

LIMITS = ExecutionLimits(wall_s=2.0, cpu_s=1.0, memory_mb=256)
# Importing scipy.stats alone takes 0.6 s of CPU on a fast machine, and more where the attacks share its caches.
HONEST_LIMITS = replace(LIMITS, cpu_s=5.0)
# Wall-clock time may be longer on a busy machine; CPU time is bounded on any machine.
LONGEST_S = ForkSettings().max_wall_factor * LIMITS.wall_s
SLACK_S, SLACK_MB = 4.0, 32
ATTACKERS = 4
HONEST_PAUSE_S = 0.1  # between two honest programs: without it they take most of the time of the processors


def breaches(attack: Attack, execution: Execution, idle_mb: float) -> list[str]:
    """What an attack achieved."""
    found = []
    if BREACH in execution.stdout:
        found.append(execution.stdout[:200])
    if execution.used.wall_s > LONGEST_S + SLACK_S:
        found.append(f"it ran for {execution.used.wall_s:.1f} s")
    if (execution.used.cpu_s or 0.0) > LIMITS.cpu_s + GRACE_S + 0.5:
        found.append(f"it computed for {execution.used.cpu_s:.1f} s")
    if execution.used.memory_mb > idle_mb + LIMITS.memory_mb + SLACK_MB:
        found.append(f"it held {execution.used.memory_mb:.0f} MiB")
    if len(execution.stdout) + len(execution.stderr) > LIMITS.output_bytes:
        found.append(f"{len(execution.stdout)} characters came back")
    if attack.family == "limits" and execution.ending == "ok":
        found.append("no limit ended it")
    return found


class HonestUsers:
    """Runs honest programs, one after another with short pauses, until `stop`."""

    def __init__(self, sandbox: ForkSandbox) -> None:
        self._sandbox, self._stop = sandbox, threading.Event()
        self.seconds: list[float] = []
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def finish(self) -> None:
        """Stop after the current program."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set() or len(self.seconds) < len(HONEST):
            program, expected = HONEST[len(self.seconds) % len(HONEST)]
            begun = time.perf_counter()
            execution = self._sandbox.run(program, limits=HONEST_LIMITS)
            self.seconds.append(time.perf_counter() - begun)
            if execution.stdout != expected or execution.ending != "ok":
                self.wrong.append(f"{program!r}: {execution}")
            self._stop.wait(HONEST_PAUSE_S)


def report() -> dict[str, Any]:
    """Run all attacks and honest programs."""
    sandbox = ForkSandbox(ForkSettings(limits=LIMITS))
    try:
        idle_mb = sandbox.run("pass").used.memory_mb
        zygote = sandbox.zygote_pid
        with baits(zygote) as around:
            users = HonestUsers(sandbox)
            with ThreadPoolExecutor(ATTACKERS) as attackers:

                def attempt(attack: Attack, baits: Baits = around) -> list[str]:
                    return breaches(attack, sandbox.run(baits.in_program(attack)), idle_mb)

                found = dict(zip(attacks(), attackers.map(attempt, attacks()), strict=True))
            users.finish()
        health = sandbox.health()
    finally:
        sandbox.close()
    slowest = sorted(users.seconds)
    return {
        "user": os.getuid(),
        "layers": health.layers,
        "attacks": len(found),
        "breaches": {f"{attack.family}: {attack.name}": what for attack, what in found.items() if what},
        "zygote_survived": health.restarts == 0 and health.alive,
        "honest": len(slowest),
        "honest_wrong": users.wrong,
        "honest_p50_s": round(slowest[len(slowest) // 2], 3),
        "honest_slowest_s": round(slowest[-1], 3),
    }


def main() -> int:
    """Run, print the report, and return the exit code."""
    found = report()
    print(json.dumps(found))
    return 1 if found["breaches"] or found["honest_wrong"] or not found["zygote_survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
