"""A fault of the server's own is logged in full and answered without a stack."""

import io
import json

import pytest
from starlette.requests import Request

from arlarena.env_server.api.app import create_app
from arlarena.env_server.api.websocket import SocketSession
from arlarena.env_server.sessions.service import EnvironmentService
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.environment.registry import load
from arlarena.proto.telemetry import Logger


class BrokenFactory:
    """Sokoban whose episodes cannot begin."""

    def __init__(self):
        self._inner = load("test", "sokoban", {})
        self.info = self._inner.info

    def task(self, spec):
        return self._inner.task(spec)

    def start(self, task):
        raise ZeroDivisionError("inner detail")


@pytest.fixture
def log():
    return io.StringIO()


@pytest.fixture
def service(log):
    made = EnvironmentService(BrokenFactory(), EnvironmentSettings(), Logger("test", stream=log))
    yield made
    made.close()


def logged(log):
    return [json.loads(line) for line in log.getvalue().splitlines()]


async def test_over_http(service, log):
    (route,) = (r for r in create_app(service).router.routes if getattr(r, "path", "") == "/reset")

    async def receive():
        return {"type": "http.request", "body": b"{}", "more_body": False}

    scope = {"type": "http", "method": "POST", "path": "/reset", "headers": [], "query_string": b"", "path_params": {}}
    response = await route.endpoint(Request(scope, receive))
    body = json.loads(response.body)
    assert (response.status_code, body["code"], body["blame"], body["retryable"]) == (500, "internal", "infra", True)
    assert "secret" not in response.body.decode()
    (record,) = logged(log)
    assert (record["event"], record["route"]) == ("request_failed", "/reset")
    assert "inner detail" in record["stack"]


async def test_over_a_socket(service, log):
    (session,) = service.store.open(1)
    reply = json.loads(await SocketSession(None, service, session).answer(b'{"type":"reset"}'))
    assert (reply["type"], reply["data"]["code"]) == ("error", "EXECUTION_ERROR")
    assert "secret" not in json.dumps(reply)
    assert logged(log)[0]["event"] == "frame_failed"
