"""The reward of a step must be a finite number. After a reset it may be null, which means 0."""

import json
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import ProtocolError

Serve = Callable[..., Awaitable[str]]


def answering(reward: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A server whose results all have `reward`, a JSON literal."""

    async def handler(request: web.Request) -> web.Response:
        body = await request.json()
        if request.path == "/v1/sessions":
            return web.json_response({"sessions": [{"session_id": "s", "lease_expires_at": 0.0}]})
        observation = {"text": "t", "prompt": "p", "step": 0, "remaining_steps": 5}
        metadata = {"task_id": "t", "state_key": "s", "observation_key": "o"}
        results = [
            {"session_id": "s", "ok": True, "observation": observation, "metadata": metadata, "reward": "REWARD"}
            for _ in body["items"]
        ]
        text = json.dumps({"results": results}).replace('"REWARD"', reward)
        return web.Response(text=text, content_type="application/json")

    return handler


async def test_a_null_reward_is_0_after_a_reset_and_an_error_after_a_step(serve: Serve) -> None:
    async with EnvironmentClient(await serve(answering("null")), retries=0) as environments:
        (session,) = await environments.open(1)
        assert (await session.reset(index=0)).reward == 0.0
        with pytest.raises(ProtocolError, match=r"step of session s at .*: success, but the reward is None"):
            await session.step("up")


@pytest.mark.parametrize("reward", ["NaN", "Infinity", "1e999", '"1.0"', "true"])
async def test_a_non_finite_reward_is_an_error(serve: Serve, reward: str) -> None:
    async with EnvironmentClient(await serve(answering(reward)), retries=0) as environments:
        (session,) = await environments.open(1)
        with pytest.raises(ProtocolError):
            await session.step("up")


async def test_a_finite_number_is_the_reward(serve: Serve) -> None:
    async with EnvironmentClient(await serve(answering("-2")), retries=0) as environments:
        (session,) = await environments.open(1)
        assert (await session.step("up")).reward == -2.0
