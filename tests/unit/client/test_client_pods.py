"""Requests about a session go to the pod that its id names; all others go to the server's address."""

import pytest
from aiohttp import web

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import Unavailable
from arlarena.client.pods import MAX_CHARS, PodAddresses
from arlarena.client.transport import Timeouts
from arlarena.proto.env_api import Action, BatchItem


def close_items(*names):
    return [BatchItem(session_id=name, op="close") for name in names]


def step(name, chars):
    return BatchItem(session_id=name, op="step", action=Action(text="x" * chars), step_index=0)


@pytest.fixture
async def server():
    """A server that records the paths and the session ids of requests. The path of a pod's address names the pod."""
    asked = []

    async def handle(request):
        body = await request.json() if request.can_read_body else {}
        names = [item["session_id"] for item in body.get("items", [])]
        asked.append((request.path, names))
        if request.path.startswith("/pod/9"):
            raise web.HTTPInternalServerError
        if request.path.endswith("/v1/batch"):
            return web.json_response({"results": [{"session_id": name, "ok": True} for name in names]})
        return web.json_response({"sessions": [{"session_id": "p2-a", "lease_expires_at": 0.0}]})

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    await runner.cleanup()


async def test_a_batch_is_sent_to_the_pods_that_hold_its_sessions(server):
    url, asked = server
    async with EnvironmentClient(url, Timeouts(), retries=0, pods=url + "/pod/{pod}") as client:
        (session,) = await client.open(1)
        assert session.id == "p2-a"
        await client._send_batch(close_items("p2-a", "p0w1-b", "old-c", "p2-d"))
        (forked,) = await session.fork(1)
        assert forked.id == "p2-a"
    assert asked[0] == ("/v1/sessions", [])
    assert sorted(asked[1:4]) == [
        ("/pod/0/v1/batch", ["p0w1-b"]), ("/pod/2/v1/batch", ["p2-a", "p2-d"]), ("/v1/batch", ["old-c"]),
    ]  # fmt: skip
    assert asked[4] == ("/pod/2/v1/sessions/p2-a/fork", [])


async def test_only_the_sessions_of_a_pod_that_fails_get_its_error(server):
    url, _ = server
    async with EnvironmentClient(url, Timeouts(), retries=0, pods=url + "/pod/{pod}") as client:
        results = await client._send_batch(close_items("p9-a", "p1-b", "p9-c"))
    assert [type(result) for result in results] == [Unavailable, type(None), Unavailable]
    assert "/pod/9/v1/batch" in str(results[0])


async def test_without_addresses_of_pods_the_server_gets_all_requests(server):
    url, asked = server
    async with EnvironmentClient(url, Timeouts(), retries=0) as client:
        await client._send_batch(close_items("p2-a", "p0w1-b"))
    assert asked == [("/v1/batch", ["p2-a", "p0w1-b"])]


def test_long_texts_are_sent_in_several_requests():
    items = [step("p1-a", MAX_CHARS // 2), step("p2-b", 1), step("p1-c", MAX_CHARS // 2), step("p1-d", 1)]
    pods = PodAddresses("http://pod-{pod}:8000")
    assert pods.split(items) == [("http://pod-1:8000", [0, 2]), ("http://pod-1:8000", [3]), ("http://pod-2:8000", [1])]
    assert PodAddresses(None).split([step("p1-a", MAX_CHARS + 1), step("p1-b", 1)]) == [(None, [0]), (None, [1])]


@pytest.mark.parametrize(("template", "word"), [("http://pods:8000", "lacks {pod}"), ("pod-{pod}", "service address")])
def test_a_wrong_template_is_refused(template, word):
    with pytest.raises(ValueError, match=word):
        PodAddresses(template)
