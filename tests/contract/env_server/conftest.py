"""A real environment server, and requests to it."""

import json

import aiohttp
import pytest
from support.environments.environment_support import environment_server


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
