"""A real environment server in a process of its own."""

import contextlib
import json
import subprocess
import sys

import aiohttp
import pytest

CONFIG = """
[environment]
name = "{name}"
capacity = {capacity}
reap_interval_s = 0.05
reattach_grace_s = {grace}
session_ttl_s = {ttl}
drain_s = {drain}
max_body_bytes = 200000
"""
SOKOBAN = """
[environment.options]
observation = "grid+coordinates"
template = "compact"
min_moves = 3
"""


@contextlib.contextmanager
def environment_server(folder, name="sokoban", capacity=16, grace=30, ttl=900, drain=0.2, arguments=()):
    """Starts `python -m arlarena.env_server` on a free port, yields (URL, process), and stops it."""
    config = folder / "environment.toml"
    settings = CONFIG.format(name=name, capacity=capacity, grace=grace, ttl=ttl, drain=drain)
    config.write_text(settings + (SOKOBAN if name == "sokoban" else ""))
    command = [
        sys.executable,
        "-m",
        "arlarena.env_server",
        "--config",
        str(config),
        "--port",
        "0",
        *arguments,
    ]
    with (folder / "stderr.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = process.stdout.readline()
        assert line, f"the server ended: {(folder / 'stderr.log').read_text()}"
        announced = json.loads(line)
        assert announced["event"] == "listening"
        yield f"http://{announced['host']}:{announced['port']}", process
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with environment_server(tmp_path_factory.mktemp("environment")) as (address, _):
        yield address


class Api:
    """Requests that return (status, body)."""

    def __init__(self, base, session):
        self.base, self.session = base, session

    async def __call__(self, method, path, body=None, raw=None):
        data = raw if raw is not None else None if body is None else json.dumps(body)
        async with self.session.request(method, self.base + path, data=data) as reply:
            text = await reply.text()
            return reply.status, (json.loads(text) if reply.content_type == "application/json" else text)

    async def open(self, **reset):
        status, body = await self("POST", "/v1/sessions", {"reset": [reset]} if reset else {})
        assert status == 200, body
        return body["sessions"][0]["session_id"]

    async def close_all(self):
        for session in (await self("GET", "/v1/sessions"))[1]["sessions"]:
            await self("DELETE", f"/v1/sessions/{session['session_id']}")


@pytest.fixture
async def api(url):
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        client = Api(url, session)
        yield client
        await client.close_all()


@pytest.fixture(scope="session")
def start_server():
    return environment_server
