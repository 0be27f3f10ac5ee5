"""The supervisor with real processes: small HTTP servers that die, hang and misbehave on request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from arlarena.console.launch.child import Address, ProcessSpec
from arlarena.console.launch.failures import LaunchError
from arlarena.console.launch.health import Activity, HttpHealth
from arlarena.console.launch.supervisor import Service, Spec, Supervisor
from arlarena.console.settings import ConsoleSettings

SERVER = """
import json, os, sys, subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print(json.dumps({"event": "listening", "host": "127.0.0.1", "port": server.server_address[1]}), flush=True)
if "--child" in sys.argv:
    print("child", subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
server.serve_forever()
"""
FAST = ConsoleSettings(
    restarts=3,
    backoff_s=0.01,
    ready_timeout_s=20,
    health_interval_s=0.05,
    health_timeout_s=0.3,
    health_failures=3,
    stop_timeout_s=5,
)


async def until(condition: Callable[[], bool], limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def supervising(settings: ConsoleSettings = FAST) -> AsyncIterator[tuple[Supervisor, list[str]]]:
    notices: list[str] = []
    supervisor = Supervisor(settings, notices.append)
    try:
        yield supervisor, notices
    finally:
        await supervisor.close()


def server(log: Path, *extra: str) -> Spec:
    def command(address: Address | None, restarts: int) -> ProcessSpec:
        port = address.port if address else 0
        return ProcessSpec((sys.executable, "-c", SERVER, str(port), *extra), log)

    return Spec("server", command, HttpHealth())


def script(name: str, code: str, log: Path, **kind: bool) -> Spec:
    return Spec(name, lambda address, restarts: ProcessSpec((sys.executable, "-c", code), log), **kind)


def pid(service: Service) -> int:
    assert service.child is not None
    return service.child.pid


async def test_a_killed_server_comes_back_on_its_port(tmp_path: Path) -> None:
    async with supervising() as (supervisor, notices):
        service = await supervisor.start(server(tmp_path / "log"))
        port, first = service.address, pid(service)
        os.kill(first, signal.SIGKILL)
        await until(lambda: service.restarts == 1 and service.state == "up")
        assert service.address == port
        assert pid(service) != first
        assert port is not None
        assert await HttpHealth()(port, time.time(), 5) is None
        assert "SIGKILL" in notices[0]
        assert "restart 1 of 3" in notices[0]


async def test_a_server_that_always_dies_ends_the_run_after_its_restarts(tmp_path: Path) -> None:
    code = "import sys; print('error: no disk left', file=sys.stderr); sys.exit(1)"
    async with supervising() as (supervisor, notices):
        service = await supervisor.start(script("worker", code, tmp_path / "log", listens=False))
        with pytest.raises(LaunchError, match=r"no disk left.*\n.*failed after 3 restarts"):
            await supervisor.race(asyncio.sleep(30))
        assert service.restarts == 3
        assert len(notices) == 3


async def test_a_hung_server_is_killed_and_restarted(tmp_path: Path) -> None:
    async with supervising() as (supervisor, notices):
        service = await supervisor.start(server(tmp_path / "log"))
        first = pid(service)
        os.kill(first, signal.SIGSTOP)
        await until(lambda: service.restarts == 1 and service.state == "up")
        assert not psutil.pid_exists(first)
        assert "did not answer in 0.3 s" in notices[0]


async def test_one_late_answer_is_no_reason_to_kill(tmp_path: Path) -> None:
    async with supervising(FAST.model_copy(update={"health_failures": 40})) as (supervisor, _):
        service = await supervisor.start(server(tmp_path / "log"))
        os.kill(pid(service), signal.SIGSTOP)
        await asyncio.sleep(0.6)
        os.kill(pid(service), signal.SIGCONT)
        await asyncio.sleep(0.5)
        assert service.restarts == 0
        assert service.state == "up"


async def test_a_silent_worker_counts_as_hung_and_its_successor_gets_the_full_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = FAST.model_copy(update={"restarts": 1, "health_failures": 1})
    spec = Spec(
        "worker",
        lambda address, restarts: ProcessSpec((sys.executable, "-c", "import time; time.sleep(60)"), log),
        Activity((log,), 0.6),
        listens=False,
    )
    async with supervising(settings) as (supervisor, notices):
        began = time.monotonic()
        await supervisor.start(spec)
        with pytest.raises(LaunchError, match="no new output"):
            await supervisor.race(asyncio.sleep(30))
        assert time.monotonic() - began > 1.2  # two processes, each of which had its 0.6 s
        assert len(notices) == 1


async def test_a_wrong_configuration_is_not_tried_again(tmp_path: Path) -> None:
    code = "import sys; print('error: [trainer] unknown key', file=sys.stderr); sys.exit(2)"
    async with supervising() as (supervisor, notices):
        await supervisor.start(script("trainer", code, tmp_path / "log", listens=False, exits_normally=True))
        with pytest.raises(LaunchError, match="unknown key") as caught:
            await supervisor.race(asyncio.sleep(30))
        assert caught.value.code == 2
        assert notices == []


async def test_a_server_that_cannot_start_is_reported_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = ProcessSpec((sys.executable, "-c", SERVER, str(port)), tmp_path / "log")
        async with supervising() as (supervisor, _):
            with pytest.raises(LaunchError, match="Address already in use"):
                await supervisor.start(Spec("server", lambda address, restarts: command, HttpHealth()))


async def test_a_server_that_never_gets_ready_is_stopped(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with supervising(FAST.model_copy(update={"ready_timeout_s": 0.5})) as (supervisor, _):
        with pytest.raises(LaunchError, match=r"not ready after 0\.5 s") as caught:
            await supervisor.start(script("server", "import time; time.sleep(60)", log))
        assert str(log) in str(caught.value)


async def test_a_stage_that_fails_is_final_and_one_that_was_killed_is_not(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    once = f"import os, pathlib; p = pathlib.Path({str(mark)!r})\nif not p.exists(): p.touch(); os.kill(os.getpid(), 9)"
    async with supervising() as (supervisor, notices):
        await supervisor.run("stage", ProcessSpec((sys.executable, "-c", once), tmp_path / "a"), None, 20)
        assert len(notices) == 1
        with pytest.raises(LaunchError, match="exit status 1"):
            await supervisor.run(
                "stage", ProcessSpec((sys.executable, "-c", "raise SystemExit(1)"), tmp_path / "b"), None, 20
            )
        assert len(notices) == 1


async def test_a_stage_has_a_deadline(tmp_path: Path) -> None:
    command = ProcessSpec((sys.executable, "-c", "import time; time.sleep(60)"), tmp_path / "log")
    async with supervising() as (supervisor, _):
        with pytest.raises(LaunchError, match=r"longer than 0\.4 s"):
            await supervisor.run("clone", command, None, 0.4)


async def test_the_log_of_a_process_begins_with_its_command_without_secrets(tmp_path: Path) -> None:
    command = ProcessSpec((sys.executable, "-c", "pass", "--api-key", "secret-key", "--out", "here"), tmp_path / "log")
    async with supervising() as (supervisor, _):
        await supervisor.run("stage", command, None, 20)
    text = (tmp_path / "log").read_text()
    assert json.loads(text.splitlines()[0])["argv"][-4:] == ["--api-key", "***", "--out", "here"]
    assert "secret-key" not in text


async def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    async with supervising() as (supervisor, _):
        with pytest.raises(LaunchError, match="/no/such/program"):
            await supervisor.run("clone", ProcessSpec(("/no/such/program",), tmp_path / "log"), None, 5)


async def test_closing_leaves_nothing_not_even_grandchildren_or_those_that_ignore_sigterm(tmp_path: Path) -> None:
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    stubborn = f"import signal, time; {ignore}; print('re' + 'ady', flush=True); time.sleep(600)"
    log = tmp_path / "stubborn"
    already_there = psutil.Process().children(recursive=True)  # of the test session
    async with supervising(FAST.model_copy(update={"stop_timeout_s": 0.5})) as (supervisor, _):
        await supervisor.start(server(tmp_path / "log", "--child"))
        await supervisor.start(script("stubborn", stubborn, log, listens=False))
        await until(lambda: b"ready" in log.read_bytes() and b"\nchild " in (tmp_path / "log").read_bytes())
        family = [member for member in psutil.Process().children(recursive=True) if member not in already_there]
        assert len(family) >= 4  # reaper, server, its child, the stubborn one
    _, left = psutil.wait_procs(family, timeout=5)
    assert left == []


async def test_services_stop_in_the_reverse_order_of_their_start(tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = (
        "import signal, sys, time\n"
        f"def stop(*_): open({str(order)!r}, 'a').write('NAME '); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); print('re' + 'ady', flush=True); time.sleep(600)"
    )
    async with supervising() as (supervisor, _):
        for name in ("environment", "inference", "rollout"):
            log = tmp_path / name
            await supervisor.start(script(name, code.replace("NAME", name), log, listens=False))
            await until(lambda log=log: b"ready" in log.read_bytes())
    assert order.read_text().split() == ["rollout", "inference", "environment"]
