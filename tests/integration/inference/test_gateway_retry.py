"""`Retry-After` of the gateway: long while all engines start, short while they are busy."""

import contextlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.inference.inference_support import Http, environment, openai_error, wait_until

pytestmark = pytest.mark.slow  # starts gateways

GENERATE = "/inference/v1/generate"
BODY = {"token_ids": [5], "sampling_params": {"max_tokens": 1}}


class Engine(BaseHTTPRequestHandler):
    """A policy server that answers every sampling request with 503; tests set `loaded` and `retry_after`."""

    loaded: bool
    retry_after: str | None

    def do_GET(self):
        self.answer(200 if self.loaded else 503, {"weight_version": "v"})

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(503, {"error": {"message": "full", "type": "server_error", "param": None, "code": "full"}})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if status == 503 and self.retry_after is not None:
            self.send_header("retry-after", self.retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def gateway(folder, **engine):
    """A client of a gateway that forwards requests to one `Engine`. `engine`: values of `loaded` and `retry_after`."""
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), type("Configured", (Engine,), engine))
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{upstream.server_address[1]}"
    config = folder / "config.toml"
    config.write_text(f'[inference]\nreplica_urls = ["{url}"]\nreplica_wait_s = 0.2\nhealth_interval_s = 0.1\n')
    command = [sys.executable, "-m", "arlarena.inference", "--config", str(config), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment())
    try:
        yield Http(f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}")
    finally:
        process.terminate()
        process.wait(20)
        upstream.shutdown()
        upstream.server_close()


def test_while_all_engines_start_retry_after_is_long_for_clients_and_short_for_probes(tmp_path):
    with gateway(tmp_path, loaded=False, retry_after="30") as http:
        answer = http.post(GENERATE, BODY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert "is down" in openai_error(answer)["message"]
        for path in ("/health", "/ready"):
            answer = http.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(("said", "passed_on"), [("7", "7"), (None, "1")])
def test_retry_after_of_a_busy_engine_is_passed_on(tmp_path, said, passed_on):
    with gateway(tmp_path, loaded=True, retry_after=said) as http:
        wait_until(lambda: http.get("/ready").status_code == 200, "ready")
        answer = http.post(GENERATE, BODY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, passed_on)
        assert openai_error(answer)["message"] == "full"
