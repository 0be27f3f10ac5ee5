"""The example scripts of the guides run as documented."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.environments.environment_support import environment_server

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
VERIFIERS = ROOT / ".venv-verifiers" / "bin" / "vf-eval"
TRL = ROOT / ".venv-trl" / "bin" / "python"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with environment_server(tmp_path_factory.mktemp("environment")) as (address, _):
        yield address


def run(name, *arguments):
    command = [sys.executable, EXAMPLES / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_plain_http(url):
    done = run("plain_http.py", url, "--episodes", "2")
    assert done.returncode == 0, done.stderr
    assert "sokoban/train/1" in done.stdout
    assert done.stdout.endswith("solved 2 of 2\n")


def test_plain_http_shows_the_servers_errors(url):
    done = run("plain_http.py", url + "/nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_trl_without_trl(url):
    done = run("trl_grpo.py", url, "--dry-run", "--tasks", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("task ") == 3


def metric(url, name):
    with urllib.request.urlopen(url + "/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"arlarena_env_{name}"))


def test_trl_trains_on_a_server(url, tmp_path):
    if not TRL.exists():
        pytest.skip("TRL is not installed: `make setup EXTRA=trl`")
    before = metric(url, "step_seconds_count")
    path = os.pathsep.join(str(ROOT / part) for part in ("proto", "client", "examples"))
    done = subprocess.run(
        [TRL, ROOT / "tests" / "support" / "trainer" / "trl_driver.py", url, tmp_path / "policy"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second, _ = json.loads(done.stdout.splitlines()[-1])
    assert first["tools/call_frequency"] >= 1
    assert all(step["rewards/TrlEnvironment/mean"] != 0 for step in (first, second))
    assert metric(url, "step_seconds_count") - before >= 8
    assert metric(url, "sessions ") == 0


class ConstantReply(BaseHTTPRequestHandler):
    """A chat endpoint that always streams the same reply."""

    def do_POST(self):
        model = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        reply = {"role": "assistant", "content": "<think>I wait.</think><action>still</action>"}
        for part in (
            {"choices": [{"index": 0, "delta": reply, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}},
        ):
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model, **part}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def policy_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), ConstantReply)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_verifiers_plays_an_episode_through_its_adapter(url, tmp_path):
    if not VERIFIERS.exists():
        pytest.skip("verifiers is not installed: `make setup EXTRA=verifiers`")
    with policy_server() as policy:
        text = (EXAMPLES / "verifiers.toml").read_text()
        config = tmp_path / "verifiers.toml"
        config.write_text(text.replace("http://127.0.0.1:8000", url).replace("http://127.0.0.1:8100", policy))
        done = subprocess.run(
            [VERIFIERS, "@", config, "--no-rich"], cwd=tmp_path, env={**os.environ, "OPENAI_API_KEY": "none"},
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    (trace_file,) = tmp_path.glob("outputs/*/traces.jsonl")
    episodes = [json.loads(line) for line in trace_file.read_text().splitlines()]
    assert [episode["errors"] for episode in episodes] == [[], []], done.stdout[-3000:]
    scores = [episode["traces"][0]["rewards"]["openenv_reward"]["score"] for episode in episodes]
    assert scores == pytest.approx([-1.5, -1.5])  # 15 steps without effect, each with reward -0.1
