"""The contract of all installed environments, direct and through the server."""

import asyncio

import aiohttp
import pytest
from support.environments.environment_support import environment_server

from arlarena.environment.contract import CHECKS, NotApplicable
from arlarena.environment.registry import installed, load


@pytest.fixture(scope="module", params=installed())
def environment(request):
    return load("test", request.param, {})


@pytest.fixture(scope="module", params=installed())
def address(request, tmp_path_factory):
    with environment_server(tmp_path_factory.mktemp(request.param), request.param, capacity=8, ttl=2) as (url, _):
        yield url


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_environment_fulfils_the_contract(environment, check):
    try:
        check(environment)
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_the_name_equals_the_entry_point(environment):
    assert environment.info.name in installed()


# ---- through the server ----------------------------------------------------------------------------------------------


async def call(session, address, method, path, body=None):
    async with session.request(method, address + path, json=body) as reply:
        return reply.status, await reply.json() if reply.content_type == "application/json" else None


async def test_a_repeated_step_has_no_effect_and_a_step_out_of_turn_is_refused(address):
    async with aiohttp.ClientSession() as session:
        _, opened = await call(session, address, "POST", "/v1/sessions", {"reset": [{"index": 1}]})
        name = opened["sessions"][0]["session_id"]
        step = {"session_id": name, "action": {"text": "nothing of use"}, "step_index": 0}
        first = await call(session, address, "POST", "/step", step)
        assert first[0] == 200
        assert await call(session, address, "POST", "/step", step) == first
        for wrong in ({**step, "step_index": 2}, {**step, "action": {"text": "other"}}):
            status, refusal = await call(session, address, "POST", "/step", wrong)
            assert (status, refusal["code"]) == (409, "step_index_conflict")
        assert (await call(session, address, "GET", f"/state?session_id={name}"))[1]["step_count"] == 1
        await call(session, address, "DELETE", f"/v1/sessions/{name}")


async def test_idle_sessions_end(address):
    async with aiohttp.ClientSession() as session:
        body = {"count": 3, "reset": [{"index": 1}], "ttl_s": 0.1}
        assert (await call(session, address, "POST", "/v1/sessions", body))[0] == 200
        async with asyncio.timeout(10):
            while (await call(session, address, "GET", "/v1/capacity"))[1]["active_sessions"]:
                await asyncio.sleep(0.02)


async def test_experts_are_unavailable_on_evaluation_splits(address):
    async with aiohttp.ClientSession() as session:
        _, info = await call(session, address, "GET", "/v1/info")
        for split in info["splits"]:
            reset = {"reset": [{"split": split["name"], "index": 0}]}
            _, opened = await call(session, address, "POST", "/v1/sessions", reset)
            name = opened["sessions"][0]["session_id"]
            status, _ = await call(session, address, "GET", f"/v1/sessions/{name}/expert")
            assert status == (403 if split["evaluation"] else 200), split
            await call(session, address, "DELETE", f"/v1/sessions/{name}")
