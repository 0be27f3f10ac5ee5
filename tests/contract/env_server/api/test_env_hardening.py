"""`make verify PART=env` in short: clients that vanish, requests and frames that mean nothing."""

import json
from pathlib import Path

import pytest
from support.processes import forking_support

ROOT = Path(__file__).resolve().parents[4]


def verdict(tmp_path, module, *arguments):
    """What one of the benchmarks found; its whole output where it did not pass."""
    out = tmp_path / "result.json"
    command = [f"benchmarks.env_server.{module}", *arguments, "--out", str(out)]
    done = forking_support.run(command, cwd=ROOT, timeout=300, imports="arlarena.env_server")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return json.loads(out.read_text())


# Slow: half-open clients are only found once their time to live is over. In `make test`, test_env_endings.py and
# test_env_websocket.py have a few clients that vanish.
@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])  # two: nine seconds
def test_clients_that_vanish_leave_nothing_behind(tmp_path, workers):
    found = verdict(tmp_path, "soak", "--seconds", "5", "--workers", workers)
    assert found["vanished"]["killed"] >= 3
    assert found["vanished"]["frozen"] >= 3
    assert found["most_sessions"] > 30
    assert found["honest"]["sessions"] > 20
    assert (found["honest"]["refused"], found["sessions_left"], found["connections_left"]) == (0, 0, 0)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])  # two: five seconds
def test_random_frames_are_answered_and_break_nothing(tmp_path, workers):
    found = verdict(tmp_path, "fuzz", "--requests", "0", "--frames", "3000", "--workers", workers)
    kinds = found["frames"]
    assert kinds.pop("frames") >= 3000
    assert min(kinds[kind] for kind in ("error", "observation", "state", "mcp")) > 20
    assert found["sessions_left"] == 0


# Slow: schemathesis generates and sends more than 500 requests. In `make test`, every route has tests of its own.
@pytest.mark.slow
def test_the_openapi_document_holds_under_fuzzing(tmp_path):
    if not (ROOT / ".venv-fuzz" / "bin" / "st").exists():
        pytest.skip("schemathesis is not installed: `make setup EXTRA=fuzz`")
    found = verdict(tmp_path, "fuzz", "--requests", "1", "--examples", "15", "--frames", "1")
    assert found["requests"] > 500
    assert found["by_status"]["200"] > 100
    assert not any(status >= "500" for status in found["by_status"])
