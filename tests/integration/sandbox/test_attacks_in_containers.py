"""The attacks in a real container: default seccomp profile, no capabilities, an ordinary user; and as root."""

from __future__ import annotations

import json
import subprocess

import pytest

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


@pytest.mark.parametrize(
    ("user", "options"),
    [
        ("10001:10001", ["--cap-drop=ALL", "--read-only", "--tmpfs=/tmp"]),
        ("10001:10001", ["--cap-drop=ALL", "--security-opt=no-new-privileges"]),
        ("0:0", []),
        ("0:0", ["--cap-drop=ALL"]),
    ],
)
def test_no_attack_succeeds(image: str, user: str, options: list[str]) -> None:
    command = ["docker", "run", "--rm", f"--user={user}", "--network=none", "--memory=6g", *options, image]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(json.dumps(found))
    assert (found["breaches"], found["honest_wrong"]) == ({}, [])
    assert found["attacks"] >= 150
    assert {"rlimits", "capabilities", "no_new_privs", "landlock", "seccomp"} <= set(found["layers"])
    assert ("user" in found["layers"]) == (user == "0:0" and not options)
    assert done.returncode == 0
