"""docker/healthcheck.py, as the engine runs it: isolated, and without the packages of the image."""

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "docker" / "healthcheck.py"


def check(*arguments: object) -> tuple[int, str]:
    command = [sys.executable, "-IS", str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr.strip()


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{started.server_port}"
        started.shutdown()


def test_a_server_is_healthy_if_it_answers_200(server: str) -> None:
    assert check("--url", f"{server}/health") == (0, "")
    assert check("--url", f"{server}/other") == (1, f"GET {server}/other answered 503")
    code, said = check("--url", "http://127.0.0.1:1/health")
    assert code == 1
    assert "Connection refused" in said


def test_a_service_without_a_port_is_healthy_while_one_of_its_files_changes(tmp_path: Path) -> None:
    old, new, missing = (tmp_path / name for name in ("old", "new", "missing"))
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 100,) * 2)
    assert check("--changed", 60, old, new, missing) == (0, "")
    assert check("--changed", 60, old, missing) == (1, f"none of {old}, {missing} changed in the last 60 s")


def test_a_waiting_service_is_healthy_only_while_it_touches_its_file(tmp_path: Path) -> None:
    waiting, missing = tmp_path / "waiting", tmp_path / "missing"
    waiting.touch()
    assert check("--waiting", waiting, "--changed", 60, missing) == (0, "")
    os.utime(waiting, (time.time() - 100,) * 2)
    assert check("--waiting", waiting, "--changed", 60, missing)[0] == 1
    waiting.unlink()
    assert check("--waiting", waiting, "--url", "http://127.0.0.1:1/health")[0] == 1
