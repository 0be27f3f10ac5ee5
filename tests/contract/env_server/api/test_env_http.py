"""The HTTP API of a real server process."""

import asyncio
import json
import time

import aiohttp
import msgspec
import pytest

from arlarena.env_server.api.routes import ROUTES
from arlarena.proto import env_api as env


def is_error(body, code, blame="client", retryable=False):
    assert {key: body[key] for key in ("code", "blame", "retryable")} == {
        "code": code, "blame": blame, "retryable": retryable,
    }  # fmt: skip
    assert body["message"]
    return True


async def test_openenv_routes(api):
    assert await api("GET", "/health") == (200, {"status": "healthy"})
    assert await api("GET", "/ready") == (200, {"status": "ready"})
    _, metadata = await api("GET", "/metadata")
    assert set(metadata) == {"name", "description", "readme_content", "version", "author", "documentation_url"}
    _, state = await api("GET", "/state")
    assert (state["episode_id"], state["step_count"]) == (None, 0)
    _, schema = await api("GET", "/schema")
    strings = [name for name, kind in schema["action"]["properties"].items() if kind.get("type") == "string"]
    assert (strings, schema["action"]["required"]) == (["text"], ["text"])
    assert schema["action"]["title"] not in (
        "Action",
        "CallToolAction",
        "ListToolsAction",
    )  # an MCP server, to verifiers
    assert set(schema["observation"]["required"]) >= {"text", "prompt"}
    assert "step_count" in schema["state"]["properties"]


async def test_a_wrong_method_says_which_are_right(api):
    async with api.session.request("PATCH", api.base + "/v1/sessions/x") as reply:
        assert (reply.status, reply.headers["Allow"]) == (405, "DELETE, GET, HEAD")
    async with api.session.request("GET", api.base + "/v1/batch") as reply:
        assert (reply.status, reply.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("method", "path", "status", "mentions"),
    [
        ("POST", "/v1/sesions", 404, ["no route /v1/sesions", "/v1/batch", "did you mean '/v1/sessions'?"]),
        ("GET", "/v2/anything/at/all", 404, ["no route /v2/anything/at/all", "/reset", "/v1/sessions", "/docs"]),
        ("GET", "/", 404, ["no route /", "/reset"]),
        ("GET", "/ws", 404, ["/ws is a WebSocket: connect with ws://"]),
        ("GET", "/reset", 405, ["/reset supports POST, not GET"]),
        ("PUT", "/sokoban/splits", 405, ["/sokoban/splits supports GET, HEAD, not PUT"]),
    ],
)
async def test_unknown_routes_and_methods_name_those_that_exist(api, method, path, status, mentions):
    found, body = await api(method, path)
    assert (found, body["code"]) == (status, {404: "not_found", 405: "method_not_allowed"}[status])
    assert [words for words in mentions if words not in body["message"]] == []
    assert body["detail"][0]["msg"] == body["message"]
    assert (await api("GET", "/docs"))[0] == 200


async def test_more_sessions_than_there_can_be_are_no_matter_of_waiting(api):
    status, reply = await api("POST", "/v1/sessions", {"count": 17})
    assert is_error(reply, "invalid_request")
    assert (status, "capacity of 16" in reply["message"]) == (422, True)


async def test_stateless_reset_and_step_keep_nothing(api):
    status, first = await api("POST", "/reset", {"seed": 3, "episode_id": "e"})
    assert status == 200
    assert set(first) == {"observation", "reward", "done", "metadata"}
    assert (first["reward"], first["done"], first["metadata"]["task_id"]) == (None, False, "sokoban/train/3")
    assert await api("POST", "/reset", {"seed": 3}) == (200, first)
    status, stepped = await api("POST", "/step", {"action": {"text": "still"}, "timeout_s": 5, "request_id": "r"})
    assert (status, stepped["reward"], stepped["observation"]["step"]) == (200, -0.1, 1)
    assert (await api("GET", "/v1/capacity"))[1]["active_sessions"] == 0
    assert (await api("POST", "/reset", raw=b""))[0] == 200


async def test_reset_and_step_in_a_session(api):
    session = await api.open()
    body = {"session_id": session, "split": "test", "index": 2, "episode_id": "mine"}
    assert (await api("POST", "/reset", body))[0] == 200
    _, stepped = await api("POST", "/step", {"session_id": session, "action": {"text": "still"}, "step_index": 0})
    assert stepped["observation"]["remaining_steps"] == 14
    _, state = await api("GET", f"/state?session_id={session}")
    assert state == {
        "episode_id": "mine", "step_count": 1, "session_id": session, "task_id": "sokoban/test/2", "done": False,
    }  # fmt: skip


async def test_an_episode_by_the_expert_through_batches(api):
    session = await api.open(split="train", index=11)
    _, expert = await api("GET", f"/v1/sessions/{session}/expert")
    assert expert["text"] == expert["plan"][0]
    for index, text in enumerate(expert["plan"]):
        item = {"session_id": session, "op": "step", "action": {"text": text}, "step_index": index}
        status, reply = await api("POST", "/v1/batch", {"items": [item, item]})
        first, again = reply["results"]
        assert (status, first["ok"], first["error"]) == (200, True, None)
        assert again == first
        assert first["observation"]["format_valid"]
    assert first["done"]
    assert (first["metadata"]["success"], first["observation"]["terminated"]) == (True, True)
    assert first["reward"] == pytest.approx(10.9)
    assert (await api("GET", f"/v1/sessions/{session}/expert"))[0] == 409


async def test_a_batch_with_mixed_errors(api):
    session = await api.open(index=4)
    items = [
        {"session_id": "nobody", "op": "step", "action": {"text": "up"}, "request_id": "first"},
        {"session_id": session, "op": "step", "action": {"text": "banana"}, "step_index": 0},
        {"session_id": session, "op": "step", "action": {"text": "up"}, "step_index": 9},
        {"session_id": session, "op": "reset", "split": "sideways"},
        {"session_id": session, "op": "close"},
        {"session_id": session, "op": "close"},
    ]
    status, reply = await api("POST", "/v1/batch", {"items": items, "deadline_s": 10})
    results = reply["results"]
    assert status == 200
    assert [r["ok"] for r in results] == [False, True, False, False, True, False]
    assert is_error(results[0]["error"], "unknown_session")
    assert results[0]["request_id"] == "first"
    assert is_error(results[2]["error"], "step_index_conflict")
    assert "sideways" in results[3]["error"]["message"]
    marks = results[1]["observation"]
    assert (marks["action_valid"], marks["format_valid"], results[1]["reward"]) == (False, False, -0.1)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            {"op": "step", "action": {"text": "up"}, "index": 0},
            "op 'step' must not have index: only op 'reset' has this field",
        ),
        ({"op": "close", "split": "train"}, "op 'close' must not have split: only op 'reset' has this field"),
        ({"op": "state", "episode_id": "a"}, "op 'state' must not have episode_id: only op 'reset' has this field"),
        ({"op": "reset", "step_index": 0}, "op 'reset' must not have step_index: only op 'step' has this field"),
        (
            {"op": "state", "action": {"text": "up"}},
            "op 'step' needs an action, such as {text: 'up'}; other ops must not have an action",
        ),
        (
            {"op": "close", "action": {"text": "up"}},
            "op 'step' needs an action, such as {text: 'up'}; other ops must not have an action",
        ),
    ],
)
async def test_a_field_of_another_operation_is_the_items_error_and_nothing_is_done(api, item, message):
    session = await api.open(index=4)
    _, reply = await api("POST", "/v1/batch", {"items": [{"session_id": session} | item]})
    (result,) = reply["results"]
    assert is_error(result["error"], "invalid_request")
    assert message in result["error"]["message"]
    state = (await api("GET", f"/state?session_id={session}"))[1]
    assert (state["step_count"], state["task_id"]) == (0, "sokoban/train/4")


async def test_the_errors_of_a_step(api):
    session = await api.open()
    status, body = await api("POST", "/step", {"session_id": session, "action": {"text": "up"}})
    assert (status, is_error(body, "not_reset")) == (409, True)
    status, body = await api("POST", "/step", {"session_id": "nobody", "action": {"text": "up"}})
    assert (status, is_error(body, "unknown_session")) == (404, True)
    assert "POST /v1/sessions" in body["message"]
    await api("POST", "/reset", {"session_id": session})
    status, body = await api("POST", "/step", {"session_id": session, "action": {"text": "up"}, "step_index": 3})
    assert (status, is_error(body, "step_index_conflict")) == (409, True)


@pytest.mark.parametrize(
    ("path", "body", "mention"),
    [
        ("/step", {"action": {"txt": "up"}}, "txt"),
        ("/step", {"action": {"text": 3}}, "$.action.text"),
        ("/step", {}, "action"),
        ("/step", {"action": {"text": "up"}, "step_index": 0}, "session_id"),
        ("/reset", {"seed": -1}, "$.seed"),
        ("/reset", {"sed": 1}, "sed"),
        ("/reset", {"split": "dev"}, "train, validation, test"),
        ("/reset", {"split": "test", "index": 5000}, "at most 1023"),
        ("/reset", {"episode_id": "x" * 256}, "$.episode_id"),
        ("/v1/sessions", {"count": 0}, "$.count"),
        ("/v1/sessions", {"ttl_s": -1}, "$.ttl_s"),
        ("/v1/sessions", {"ttl_s": 1e9}, "above this server's maximum"),
        ("/v1/batch", {"items": [{"session_id": "a", "op": "jump"}]}, "$.items[0].op"),
        ("/v1/batch", {"items": [{"session_id": "a", "op": "jump"}]}, "known: close, reset, state, step"),
        ("/v1/batch", {"items": [{"session_id": "a", "op": "Step"}]}, "did you mean 'step'?"),
        ("/v1/batch", {"items": [{"session_id": "a", "op": ""}]}, "known: close, reset, state, step"),
        ("/v1/batch", {"itens": []}, "known: items, deadline_s; did you mean 'items'?"),
        ("/v1/batch", {"items": [{"session_id": "a", "op": "step", "action": {"txt": ""}}]}, "known: text, metadata"),
        ("/step", {"action": "up"}, "Expected `object`, got `str` - at `$.action`; its fields: text, metadata"),
        ("/step", {"action": {}}, "missing required field `text` - at `$.action`; its fields: text, metadata"),
        (
            "/v1/batch",
            {"items": ["step"]},
            "`$.items[0]`; its fields: seed, split, index, task_id, episode_id, session_id",
        ),
        ("/v1/sessions", {"reset": [{"taskid": "a"}]}, "did you mean 'task_id'?"),
        ("/v1/batch", {"items": [], "deadline_s": 0}, "$.deadline_s"),
        ("/v1/batch", [], "object"),
    ],
)
async def test_bad_bodies_are_422_and_name_the_field(api, path, body, mention):
    status, reply = await api("POST", path, body)
    assert status == 422
    assert mention in reply["message"]
    assert isinstance(reply["detail"], list)
    assert is_error(reply, "invalid_request")


async def test_what_is_not_json(api):
    for raw in (b"{", b"\xff\xfe", b'{"action": }'):
        status, reply = await api("POST", "/step", raw=raw)
        assert (status, reply["code"]) == (422, "invalid_json")


async def test_unknown_paths_methods_and_parameters(api):
    assert (await api("GET", "/v2"))[1]["code"] == "not_found"
    assert (await api("DELETE", "/health"))[1]["code"] == "method_not_allowed"
    status, body = await api("GET", "/state?sesion_id=1")
    assert (status, "sesion_id" in body["message"]) == (422, True)


async def test_a_body_beyond_the_limit(api):
    status, body = await api("POST", "/step", {"action": {"text": "x" * 300_000}})
    assert (status, body["code"]) == (413, "too_large")


async def test_garbage_replies_are_marked_turns(api):
    session = await api.open(index=4)
    garbage = ["", "\u0000", "<action>" * 5000, "<think>" * 5000, "上", "{}", "null"]
    for index, text in enumerate(garbage):
        status, body = await api(
            "POST", "/step", {"session_id": session, "action": {"text": text}, "step_index": index}
        )
        assert (status, body["observation"]["action_valid"], body["observation"]["format_valid"]) == (200, False, False)
        assert body["reward"] == -0.1


async def test_sessions_are_opened_all_or_none(api):
    status, body = await api("POST", "/v1/sessions", {"count": 10, "group_id": "g1", "reset": [{"index": 1}]})
    assert status == 200
    assert len({one["session_id"] for one in body["sessions"]}) == 10
    assert len({one["result"]["metadata"]["state_key"] for one in body["sessions"]}) == 1
    async with api.session.post(api.base + "/v1/sessions", data=json.dumps({"count": 7})) as reply:
        refusal = await reply.json()
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    assert is_error(refusal, "capacity", blame="infra", retryable=True)
    capacity = (await api("GET", "/v1/capacity"))[1]
    assert capacity == {"max_sessions": 16, "active_sessions": 10, "available": 6, "draining": False}
    assert (await api("POST", "/v1/sessions", {"count": 6}))[0] == 200
    listed = (await api("GET", "/v1/sessions"))[1]["sessions"]
    assert sum(one.get("group_id") == "g1" for one in listed) == 10
    assert (await api("DELETE", f"/v1/sessions/{listed[0]['session_id']}"))[0] == 204
    assert (await api("DELETE", f"/v1/sessions/{listed[0]['session_id']}"))[0] == 404


async def test_idle_sessions_go_and_heartbeats_keep(api):
    _, body = await api("POST", "/v1/sessions", {"count": 2, "ttl_s": 2})
    idle, kept = (one["session_id"] for one in body["sessions"])
    deadline = time.monotonic() + 10
    while (await api("GET", f"/v1/sessions/{idle}"))[0] != 404:
        status, lease = await api("POST", f"/v1/sessions/{kept}/heartbeat")
        assert (status, lease["session_id"]) == (200, kept)
        assert lease["lease_expires_at"] == pytest.approx(time.time() + 2, abs=1)
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert (await api("GET", f"/v1/sessions/{kept}"))[0] == 200
    assert (await api("POST", f"/v1/sessions/{idle}/heartbeat"))[0] == 404
    assert "arlarena_env_sessions_expired_total 0.0" not in (await api("GET", "/metrics"))[1]


async def test_the_expert_is_forbidden_on_evaluation_splits(api):
    session = await api.open(split="validation", index=0)
    status, body = await api("GET", f"/v1/sessions/{session}/expert")
    assert (status, is_error(body, "expert_forbidden")) == (403, True)


async def test_info_says_what_is_played(api):
    _, body = await api("GET", "/v1/info")
    told = msgspec.convert(body, env.Info)
    assert (told.name, told.horizon, told.template.name) == ("sokoban", 15, "compact")
    assert told.rewards == {"step": -0.1, "box_on_target": 1.0, "box_off_target": -1.0, "solved": 10.0}
    assert [(split.name, split.evaluation) for split in told.splits] == [
        ("train", False), ("validation", True), ("test", True),
    ]  # fmt: skip
    assert told.options["min_moves"] == 3
    assert (told.template.version, told.parser.version) == ("1", "2")


async def test_replies_have_the_declared_types(api):
    session = await api.open(index=2)
    opened = msgspec.convert((await api("GET", f"/v1/sessions/{session}"))[1], env.OpenedSession)
    assert opened.session_id == session
    result = msgspec.convert((await api("POST", "/reset", {"session_id": session}))[1], env.StepResult)
    assert result.done is False
    batch = {"items": [{"session_id": session, "op": "state"}]}
    reply = msgspec.convert((await api("POST", "/v1/batch", batch))[1], env.BatchReply)
    assert [item.ok for item in reply.results] == [True]


async def test_openapi_lists_every_route(api):
    _, document = await api("GET", "/openapi.json")
    assert document["info"]["version"].startswith("1.")
    listed = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert listed == {(route.method, route.path) for route in ROUTES}
    text = json.dumps(document)
    for name in ("BatchRequest", "StepRequest", "ErrorReply"):
        assert f"#/components/schemas/{name}" in text
        assert name in document["components"]["schemas"]


async def test_metrics_count(api):
    session = await api.open(index=1)
    await api("POST", "/step", {"session_id": session, "action": {"text": "still"}})
    await api("POST", "/step", {"session_id": "nobody", "action": {"text": "still"}})
    text = (await api("GET", "/metrics"))[1]
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["arlarena_env_step_seconds_count"]) >= 1
    assert float(values['arlarena_env_errors_total{code="unknown_session"}']) >= 1
    assert float(values['arlarena_env_requests_total{route="/step",status="404"}']) >= 1
    assert float(values["arlarena_env_sessions"]) == 1


async def test_the_same_task_and_actions_give_the_same_bytes(api, tmp_path, start_server):
    async def transcript(base):
        async with aiohttp.ClientSession() as http:
            async with http.post(
                f"{base}/v1/sessions", data=json.dumps({"reset": [{"task_id": "sokoban/test/6"}]})
            ) as r:
                opened = (await r.json())["sessions"][0]
            replies = [opened["result"]]
            for text in ("up", "<think>a</think><action>left</action>", "?", "down", "right"):
                body = json.dumps({"session_id": opened["session_id"], "action": {"text": text}})
                async with http.post(f"{base}/step", data=body) as r:
                    replies.append(await r.json())
            return replies

    with start_server(tmp_path) as (other, _):
        assert await transcript(api.base) == await transcript(other)


async def test_many_clients_at_once(api):
    async def episode(index):
        session = await api.open(index=index)
        plan = (await api("GET", f"/v1/sessions/{session}/expert"))[1]["plan"]
        for step, text in enumerate(plan):
            body = {"session_id": session, "action": {"text": text}, "step_index": step}
            status, reply = await api("POST", "/step", body)
            assert status == 200
        await api("DELETE", f"/v1/sessions/{session}")
        return reply["metadata"]["success"]

    for first in (0, 16, 32):
        assert all(await asyncio.gather(*(episode(first + index) for index in range(16))))
