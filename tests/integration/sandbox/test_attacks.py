"""No program escapes: the suite of `sandbox_attacks`, as the current user and as an ordinary user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sandbox_attacks import BREACH, Attack, attacks, baits, control
from sandbox_attacks.__main__ import LONGEST_S, report
from support.sandbox.sandbox_support import readable_python

from arlarena.sandbox import kernel

pytestmark = [
    pytest.mark.skipif(not kernel.supported(), reason="the sandbox of forks needs Linux on x86-64 or aarch64"),
    pytest.mark.timeout(300),
]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return report()


def test_there_are_enough_attacks_of_every_family() -> None:
    found = attacks()
    assert len(found) >= 150
    assert len({(attack.family, attack.name) for attack in found}) == len(found)
    assert {attack.family for attack in found} == {
        "files", "kernel", "leaks", "limits", "memory", "network", "processes", "resources",
    }  # fmt: skip
    assert sum(attack.controlled for attack in found) >= 80


def test_no_attack_succeeds(found: dict[str, Any]) -> None:
    assert found["breaches"] == {}
    assert found["attacks"] == len(attacks())


def test_honest_programs_during_attacks_are_correct_and_on_time(found: dict[str, Any]) -> None:
    assert found["honest_wrong"] == []
    assert found["honest"] >= 24
    assert found["zygote_survived"]
    assert found["honest_p50_s"] < 1.0
    assert found["honest_slowest_s"] < LONGEST_S  # includes time spent waiting for a CPU


def test_every_controlled_attack_succeeds_without_a_sandbox() -> None:
    controlled = [attack for attack in attacks() if attack.controlled]
    with baits(os.getpid()) as around, ThreadPoolExecutor(1) as pool:

        def tried(attack: Attack) -> bool:
            return BREACH in control(around.in_program(attack))

        failed = [
            attack.name for attack, worked in zip(controlled, pool.map(tried, controlled), strict=True) if not worked
        ]
    assert failed == []


# Slow: the full suite again. `make test` runs it as its own user.
@pytest.mark.slow
def test_no_attack_succeeds_as_an_ordinary_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("the current user is an ordinary user: the tests above covered it")
    python = readable_python()
    if python is None:
        pytest.skip("user 65534 can read no Python of this version here: neither this one nor /usr/bin/python3")
    path = [*(entry for entry in sys.path if entry), str(ROOT / "tests")]
    code = f"import sys; sys.path[:0] = {path!r}; from sandbox_attacks.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [python, "-I", "-c", code], user=65534, group=65534, extra_groups=[], cwd="/", capture_output=True, timeout=240
    )
    assert done.stdout, done.stderr.decode()[-2000:]
    found = json.loads(done.stdout)
    assert found["user"] == 65534
    assert {"rlimits", "capabilities", "no_new_privs", "landlock", "seccomp"} <= set(found["layers"])
    assert (found["breaches"], found["honest_wrong"]) == ({}, [])
    assert done.returncode == 0
