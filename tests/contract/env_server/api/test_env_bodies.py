"""Bodies that cannot be read: the client's fault on every route, and the connection stays usable."""

import gzip
import json

import aiohttp
import pytest

from arlarena.env_server.api.routes import ROUTES

DEEP = b"[" * 100_000
# name -> (bytes, code of the error)
UNREADABLE = {
    "latin-1": (b'{"split": "caf\xe9", "text": "caf\xe9"}', "invalid_json"),
    "only a byte": (b"\xff", "invalid_json"),
    "a surrogate in bytes": (b'{"split": "\xed\xa0\x80"}', "invalid_json"),
    "half a surrogate pair": (b'{"split": "\\ud800", "action": "\\ud800"}', None),
    "utf-16": ('{"split": "train"}'.encode("utf-16"), "invalid_json"),
    "too deep": (DEEP, None),
    "too deep within": (b'{"action": {"text": "up", "metadata": {"a": ' + DEEP + b"}}}", None),
    "a number of 5,000 digits": (b'{"index": ' + b"9" * 5000 + b', "seed": 1}', None),
    "NaN": (b'{"index": NaN}', None),
    "Infinity": (b'{"count": Infinity}', None),
    "a number beyond float": (b'{"ttl_s": 1e999}', None),
    "a key twice": (b'{"nothing": 1, "nothing": 2}', "invalid_request"),
    "two objects": (b"{}{}", None),
    "a null byte": (b'{"split": "\x00"}', None),
    "an array": (b"[]", "invalid_request"),
    "compressed without saying so": (gzip.compress(b"{}"), "invalid_json"),
}
TAKES_JSON = [route for route in ROUTES if route.body_type not in (None, bytes)]
DIGITS = "9" * 5000


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory, start_server):
    with start_server(tmp_path_factory.mktemp("workers"), arguments=("--workers", "2")) as (address, _):
        yield address


async def concrete(api, path):
    """A route's path with names that exist in it."""
    if "{session_id}" in path:
        path = path.replace("{session_id}", await api.open(split="train", index=1))
    if "{snapshot_id}" in path:
        _, kept = await api("POST", f"/v1/sessions/{await api.open(split='train', index=1)}/snapshot")
        path = path.replace("{snapshot_id}", kept["snapshot_id"])
    return path.replace("{env}", "sokoban")


@pytest.mark.parametrize("route", TAKES_JSON, ids=lambda route: route.path)
async def test_an_unreadable_body_is_the_clients_422_on_every_route(api, route):
    path = await concrete(api, route.path)
    for name, (raw, code) in UNREADABLE.items():
        status, body = await api(route.method, path, raw=raw)
        assert (status, body["blame"], body["retryable"]) == (422, "client", False), (name, body)
        assert code in (None, body["code"]), (name, body)
        assert len(body["message"]) < 500


async def test_the_byte_that_is_not_utf_8_is_named(api):
    _, body = await api("POST", "/reset", raw=b'{"split": "caf\xe9"}')
    assert body["message"] == "the body is not UTF-8: byte 0xe9 at offset 14"


async def test_a_compressed_body_is_refused_with_the_fix(api):
    async with api.session.post(
        api.base + "/reset", data=gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"}
    ) as reply:
        assert reply.status == 422
        assert "send it as plain JSON" in (await reply.json())["message"]


@pytest.mark.parametrize(
    "reset",
    [
        {"task_id": f"sokoban/train/{DIGITS}"},
        {"task_id": f"sokoban/train/{2**63}"},
        {"split": "train", "index": 2**63},
        {"seed": 10**30},
        {"task_id": "sokoban/train/٣"},
        {"task_id": "sokoban/train/1/"},
        {"task_id": DIGITS},
        {"split": DIGITS},
        {"split": "test", "index": 10**30},
    ],
)
async def test_a_task_that_cannot_exist_is_the_clients_422(api, reset):
    status, body = await api("POST", "/reset", reset)
    assert (status, body["blame"], body["retryable"]) == (422, "client", False)


@pytest.mark.parametrize("index", [2**31, 2**63 - 1])
async def test_any_index_of_a_split_without_an_end_is_a_task(api, index):
    status, body = await api("POST", "/reset", {"split": "train", "index": index})
    assert status == 200, body
    assert body["metadata"]["task_id"] == f"sokoban/train/{index}"
    assert (await api("POST", "/reset", {"task_id": f"sokoban/train/000{index}"}))[1] == body


async def test_mcp_answers_an_unreadable_body_with_a_parse_error(api):
    for name, (raw, code) in UNREADABLE.items():
        status, body = await api("POST", "/mcp", raw=raw)
        assert status == 200, name
        assert body["error"]["code"] in ((-32700,) if code == "invalid_json" else (-32600, -32700)), (name, body)
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    arguments = {"task_id": f"sokoban/train/{DIGITS}"}
    params = {"name": "start_episode", "arguments": arguments, "session_id": await api.open()}
    _, body = await api("POST", "/mcp", {**call, "params": params})
    assert (body["error"]["code"], body["error"]["data"]["blame"]) == (-32602, "client")


async def test_an_unreadable_frame_leaves_the_socket_open(api):
    async with api.session.ws_connect(api.base + "/ws") as socket:
        for name, (raw, _) in UNREADABLE.items():
            for frame in (raw, b'{"type": "reset", "data": ' + raw + b"}", b'{"type": "step", "data": ' + raw + b"}"):
                await socket.send_bytes(frame)
                reply = await socket.receive_json(timeout=10)
                assert reply["type"] == "error", (name, reply)
                assert reply["data"]["code"] in ("INVALID_JSON", "VALIDATION_ERROR"), (name, reply)
        await socket.send_bytes(b'{"type": "mcp", "data": {"jsonrpc": "2.0", "method": "\xff"}}')
        assert (await socket.receive_json(timeout=10))["type"] in ("error", "mcp")
        await socket.send_json({"type": "reset"})
        assert (await socket.receive_json(timeout=10))["type"] == "observation"


async def test_workers_refuse_the_same_bodies(two_workers):
    async with aiohttp.ClientSession() as session:
        for path in ("/reset", "/step", "/v1/sessions", "/v1/batch"):
            for name, (raw, _) in UNREADABLE.items():
                async with session.post(two_workers + path, data=raw) as reply:
                    assert reply.status == 422, (path, name, await reply.text())
        for session_id in (f"0w{DIGITS}-x", "0w7-x", "0w1-\x00", "é"):
            item = {"session_id": session_id, "op": "state"}
            async with session.post(two_workers + "/v1/batch", data=json.dumps({"items": [item]})) as reply:
                (result,) = (await reply.json())["results"]
                assert (result["ok"], result["error"]["code"]) == (False, "unknown_session"), session_id
