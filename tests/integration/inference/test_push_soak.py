"""A short run of the soak of `make verify PART=inference`: pushes under load while engines are killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


# Slow: 12 pushes, two kills and the starts of engines after them take half a minute. In `make test`, test_gateway.py
# kills engines, and test_inference_push.py pushes.
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("transport", ["http", "shared"])
def test_every_token_is_sampled_by_its_stated_version_despite_kills(tmp_path, transport):
    out = tmp_path / "out.json"
    amount = ["--pushes", "12", "--kills", "2", "--pause", "0.5", "--transport", transport]
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.weights.push_soak", *amount, "--out", out],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["killed"] == 2
    assert found["requests"]["answers"] > 50
