"""`arlarena serve broker`: a broker in the foreground, which leaves nothing behind however it ends."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.processes import forking_support
from support.processes.forking_support import Forked


def start(folder: Path) -> tuple[Forked, int, psutil.Process]:
    command = ["arlarena.console", "serve", "broker", "--dir", str(folder)]
    process = forking_support.popen(command, stdout=subprocess.PIPE, stderr=sys.stderr)
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    (server,) = [child for child in psutil.Process(process.pid).children() if "server" in child.name()]
    return process, said["port"], server


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_it_serves_until_it_is_stopped(tmp_path: Path, number: int, code: int) -> None:
    process, port, server = start(tmp_path / "broker")
    with (
        redis.Redis(port=port, protocol=2, retry=Retry(NoBackoff(), 0)) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    password = (tmp_path / "broker" / "password").read_text().strip()
    with redis.Redis(port=port, password=password) as client:
        assert client.ping()
    process.send_signal(number)
    assert process.wait(20) == code
    _, left = psutil.wait_procs([server], timeout=20)
    assert left == []


def test_a_server_that_dies_ends_it_with_an_error(tmp_path: Path) -> None:
    process, _, server = start(tmp_path / "broker")
    server.kill()
    assert process.wait(20) == 1


def test_a_taken_port_is_an_error_and_no_stack_trace(tmp_path: Path) -> None:
    first, port, _ = start(tmp_path / "a")
    second = forking_support.run(
        ["arlarena.console", "serve", "broker", "--dir", str(tmp_path / "b"), "--port", str(port)]
    )
    first.terminate()
    first.wait(20)
    assert second.returncode == 1
    assert f"port {port}" in second.stderr
    assert "Traceback" not in second.stderr
