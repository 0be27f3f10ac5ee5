"""Several pods of a set, each a server of its own behind one service: whichever is asked finds the session's holder.

Pods 1 and 2 are servers on 127.0.0.1 and 127.0.0.2 with one port; pod 2 has two workers.
"""

import contextlib
import sys

import aiohttp
import pytest
from support.environments.environment_support import environment_server
from support.processes import forking_support

TOKEN = "between-pods"
EXTRA = 'pods = "http://127.0.0.{{pod}}:{port}"\npod = {pod}\nhost = "127.0.0.{pod}"\ntoken = "' + TOKEN + '"\n'


@pytest.fixture(scope="module")
def pods(tmp_path_factory):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has all of 127.0.0.0/8")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(aiohttp_free_port())
        addresses = []
        for pod, arguments in ((1, ()), (2, ("--workers", "2"))):
            folder = tmp_path_factory.mktemp(f"pod-{pod}")
            extra = EXTRA.format(port=first, pod=pod)
            address, _ = stack.enter_context(
                environment_server(folder, extra=extra, arguments=("--port", str(first), *arguments))
            )
            addresses.append(address)
        yield addresses


@contextlib.contextmanager
def aiohttp_free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield port


async def ask(address, method, path, body=None, token=TOKEN):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, address + path, json=body) as reply,
    ):
        return reply.status, await reply.json(content_type=None)


async def opened(address, count=1):
    status, reply = await ask(address, "POST", "/v1/sessions", {"count": count, "reset": [{"index": 5}]})
    assert status == 200
    return [one["session_id"] for one in reply["sessions"]]


async def test_ids_say_which_pod_holds_a_session(pods):
    (mine,) = await opened(pods[0])
    theirs = await opened(pods[1], 4)
    assert mine.startswith("p1-")
    assert {name.split("-")[0] for name in theirs} == {"p2w0", "p2w1"}


async def test_any_pod_answers_for_any_session(pods):
    for asked, held in ((pods[0], pods[1]), (pods[1], pods[0])):
        for name in await opened(held, 2):
            status, shown = await ask(asked, "GET", f"/v1/sessions/{name}")
            assert (status, shown["session_id"]) == (200, name)
            status, result = await ask(asked, "POST", "/step", {"session_id": name, "action": {"text": "still"}})
            assert (status, result["observation"]["step"]) == (200, 1)
            assert (await ask(asked, "GET", f"/state?session_id={name}"))[1]["step_count"] == 1
            status, snapshot = await ask(asked, "POST", f"/v1/sessions/{name}/snapshot")
            assert status == 200
            assert (await ask(asked, "POST", f"/v1/snapshots/{snapshot['snapshot_id']}/restore", {}))[0] == 200
            assert (await ask(asked, "DELETE", f"/v1/sessions/{name}"))[0] == 204
            assert (await ask(asked, "GET", f"/v1/sessions/{name}"))[0] == 404


async def test_a_batch_may_mix_pods_and_workers(pods):
    names = [*(await opened(pods[0], 2)), *(await opened(pods[1], 4)), "p1-gone", "p2w1-gone"]
    names = names[::2] + names[1::2]
    items = [{"session_id": name, "op": "step", "action": {"text": "still"}} for name in names]
    for asked in pods:
        status, reply = await ask(asked, "POST", "/v1/batch", {"items": items})
        assert status == 200
        assert [result["session_id"] for result in reply["results"]] == names
        assert [result["ok"] for result in reply["results"]] == ["gone" not in name for name in names]


async def test_a_socket_reaches_a_session_in_another_pod(pods):
    for asked, held in ((pods[0], pods[1]), (pods[1], pods[0])):
        (name,) = await opened(held)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.ws_connect(f"{asked}/ws?session_id={name}") as socket,
        ):
            await socket.send_json({"type": "step", "data": {"text": "still"}})
            assert (await socket.receive_json())["data"]["observation"]["step"] == 1
        assert (await ask(asked, "GET", f"/state?session_id={name}"))[1]["step_count"] == 1


async def test_the_token_is_asked_for_before_anything_is_passed_on(pods):
    (name,) = await opened(pods[1])
    assert (await ask(pods[0], "GET", f"/v1/sessions/{name}", token=None))[0] == 401


async def test_a_pod_that_is_not_there_is_an_error_of_the_infrastructure(pods):
    status, reply = await ask(pods[0], "GET", "/v1/sessions/p9-abc")
    assert (status, reply["code"], reply["blame"], reply["retryable"]) == (503, "pod_away", "infra", True)
    status, reply = await ask(
        pods[0],
        "POST",
        "/v1/batch",
        {"items": [{"session_id": "p9-abc", "op": "state"}, {"session_id": "x", "op": "state"}]},
    )
    assert [result["error"]["code"] for result in reply["results"]] == ["pod_away", "unknown_session"]


def test_a_pod_needs_a_number(tmp_path):
    (tmp_path / "x.toml").write_text('[environment]\npods = "http://env:8000"\n')
    done = forking_support.run(["arlarena.env_server", "--config", str(tmp_path / "x.toml")])
    assert done.returncode == 2
    assert "pods" in done.stderr
