"""Services that an evaluation starts, until they are ready: a service that is slow, that ends, or that never is."""

import asyncio
import os
from pathlib import Path

import pytest

from arlarena.proto.config import ConfigError
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.start import local_service
from arlarena.rollout.evaluation.start.local_service import LocalServices

pytestmark = pytest.mark.processes
# A service that listens at once and answers /ready with 503, and what happens at the third question.
MODULE = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

asked = 0
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        if asked == 3 and THEN == "end":
            print("loading the weights", file=sys.stderr)
            print("error: the weights are damaged", file=sys.stderr, flush=True)
            sys.stderr.close()
            import os; os._exit(3)
        self.send_response(200 if asked >= 3 and THEN == "ready" else 503)
        self.end_headers()
    def log_message(self, *arguments):
        print("asked", asked, file=sys.stderr, flush=True)

THEN = sys.argv[1]
if THEN.startswith("status "):
    print("error: [environment] sise: unknown key", file=sys.stderr)
    sys.exit(int(THEN.split()[1]))
server = HTTPServer(("127.0.0.1", 0), Handler)
print("a line that is no event")
print(json.dumps({"event": "listening", "host": "127.0.0.1", "port": server.server_port}), flush=True)
server.serve_forever()
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_service.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(local_service, "READY_INTERVAL_S", 0.01)


async def start(services: LocalServices, then: str) -> str:
    return await services.start("slow_service", [then], "policy", "the policy server of x")


def is_running(process_id: int) -> bool:
    return os.path.exists(f"/proc/{process_id}")


async def test_a_service_is_used_only_when_it_is_ready(tmp_path: Path) -> None:
    async with LocalServices(tmp_path / "services") as services:
        assert (await start(services, "ready")).startswith("http://127.0.0.1:")
        assert (tmp_path / "services" / "policy.log").read_text().splitlines()[-1] == "asked 3"
        failing = asyncio.ensure_future(services.failed())
        process = services._services[0].process
        process.kill()
        assert "the policy server of x ended with exit status -9 (asked 3)" in str(await failing)


async def test_a_service_that_ends_before_it_is_ready_is_named_with_the_cause(tmp_path: Path) -> None:
    async with LocalServices(tmp_path / "services") as services:
        with pytest.raises(EvaluationError) as raised:
            await start(services, "end")
    assert "the policy server of x ended with exit status 3 before it was ready (the weights are damaged)" in str(
        raised.value
    )
    assert str(tmp_path / "services" / "policy.log") in str(raised.value)


@pytest.mark.parametrize(("status", "error"), [(2, ConfigError), (1, EvaluationError)])
async def test_a_service_that_ends_before_it_listens(tmp_path: Path, status: int, error: type[Exception]) -> None:
    async with LocalServices(tmp_path / "services") as services:
        with pytest.raises(error, match=r"the policy server of x .*sise: unknown key") as raised:
            await start(services, f"status {status}")
    assert type(raised.value) is error


async def test_a_service_that_is_never_ready_is_given_up_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_service, "READY_S", 0.5)
    async with LocalServices(tmp_path / "services") as services:
        with pytest.raises(EvaluationError, match=r"the policy server of x was not ready within 0\.5 s; its log is"):
            await start(services, "wait")
        process = services._services[0].process
    assert not is_running(process.pid)


async def test_ctrl_c_before_a_service_is_ready_stops_it(tmp_path: Path) -> None:
    async with LocalServices(tmp_path / "services") as services:
        starting = asyncio.ensure_future(start(services, "wait"))
        log = tmp_path / "services" / "policy.log"
        async with asyncio.timeout(30):
            while not log.exists() or "asked 2" not in log.read_text():
                await asyncio.sleep(0.01)
        starting.cancel()  # as `Interrupts` does at a signal before attempts are played
        with pytest.raises(asyncio.CancelledError):
            await starting
        process = services._services[0].process
        assert is_running(process.pid)
    assert not is_running(process.pid)
