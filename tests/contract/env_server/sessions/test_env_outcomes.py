"""An environment that gives no number for a reward, or breaks in a step, has failed: no route makes a reward of it."""

import json
from fractions import Fraction

import aiohttp
import numpy as np
import pytest
from support.environments.conversation_support import serving

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import Unavailable
from arlarena.environment.prompts import PromptTemplate
from arlarena.environment.text_game import TextEnvironment, TextGame
from arlarena.proto.env_api import Split

REWARDS = {
    "nan": float("nan"),
    "inf": float("inf"),
    "huge": 10**400,
    "none": None,
    "text": "1.0",
    "bool": True,
    "numpy-nan": np.float32("nan"),
    "numpy": np.float32(0.5),
    "fraction": Fraction(1, 4),
}
NUMBERS = {"go": 1.0, "numpy": 0.5, "fraction": 0.25}
NO_NUMBERS = [name for name in REWARDS if name not in NUMBERS]
# Other broken results: what is said -> what the error names.
BROKEN = {
    "score-above": "score must be a number from 0 to 1, but is 1.5 (float)",
    "score-nan": "score must be a number from 0 to 1, but is nan (float)",
    "success": "success must be a bool, but is 'yes' (str)",
}


class Odd(TextGame):
    """A game whose player says what it gives."""

    score = 0.0
    shown: str | None = "say something"
    won: bool | str = False

    def text(self):
        return self.shown

    def state(self):
        return str(self.shown)

    def state_key(self, task):
        return task

    @property
    def solved(self):
        return self.won

    @property
    def over(self):
        return False

    def play(self, action):
        if action == "raise":
            raise ZeroDivisionError("inner detail")
        self.score = {"score-above": 1.5, "score-nan": float("nan")}.get(action, 0.0)
        self.won = "yes" if action == "success" else False
        self.shown = None if action == "text-none" else "say something"
        return REWARDS.get(action, 1.0)


class OddTemplate(PromptTemplate):
    def render(self, scene):
        return "say something"


class OddEnvironment(TextEnvironment):
    name, version, description, horizon, expert = "odd", "1", "Gives what it is told.", 8, False
    template = OddTemplate("full", "1", "{observation}")
    splits = (Split("train", "train", None, False),)
    rewards = {"any": 1.0}  # noqa: RUF012

    def __init__(self, *, blocking):
        self.blocking = blocking

    def game(self, task):
        return Odd()


@pytest.fixture(scope="module", params=[False, True], ids=["on the loop", "in threads"])
def odd(request):
    with serving(OddEnvironment(blocking=request.param)) as url:
        yield url


@pytest.fixture
async def http(odd):
    async with aiohttp.ClientSession(odd) as session:
        yield session


async def posted(http, path, body):
    async with http.post(path, json=body) as reply:
        return reply.status, await reply.json()


async def opened(http):
    status, body = await posted(http, "/v1/sessions", {"reset": [{"index": 0}]})
    assert status == 200
    return body["sessions"][0]["session_id"]


def step(session, text, index=0):
    return {"session_id": session, "action": {"text": text}, "step_index": index}


@pytest.mark.parametrize(("text", "reward"), NUMBERS.items())
async def test_numbers_of_every_kind_are_rewards(http, text, reward):
    status, body = await posted(http, "/step", step(await opened(http), text))
    assert (status, body["reward"]) == (200, reward)


@pytest.mark.parametrize("text", NO_NUMBERS)
async def test_a_reward_that_is_no_number_is_an_error_of_the_environment(http, text):
    status, body = await posted(http, "/step", step(await opened(http), text))
    assert (status, body["code"], body["blame"], body["retryable"]) == (500, "invalid_result", "infra", False)
    assert "odd/train/0: the environment's reward must be a finite number, but is" in body["message"]
    assert not {"observation", "reward"} & set(body)


@pytest.mark.parametrize(("text", "message"), BROKEN.items())
async def test_other_broken_results_are_errors_too(http, text, message):
    status, body = await posted(http, "/step", step(await opened(http), text))
    assert (status, body["code"]) == (500, "invalid_result")
    assert message in body["message"]


async def test_a_step_in_no_session(http):
    status, body = await posted(http, "/step", {"action": {"text": "nan"}})
    assert (status, body["code"], body["blame"]) == (500, "invalid_result", "infra")


@pytest.mark.parametrize("text", ["nan", "none", "raise"])
async def test_a_batch_fails_in_that_item_alone(http, text):
    good, bad = await opened(http), await opened(http)
    items = [{"op": "step", **step(one, said)} for one, said in ((good, "go"), (bad, text))]
    status, body = await posted(http, "/v1/batch", {"items": items})
    assert status == 200
    fine, failed = body["results"]
    assert (fine["ok"], fine["reward"]) == (True, 1.0)
    assert (failed["ok"], failed["error"]["blame"], failed["observation"], failed["reward"]) == (
        False, "infra", None, None
    )  # fmt: skip
    assert "secret" not in json.dumps(body)


@pytest.mark.parametrize("text", ["nan", "raise"])
async def test_a_socket(odd, http, text):
    async with http.ws_connect("/ws") as socket:
        await socket.send_json({"type": "reset", "data": {}})
        assert (await socket.receive_json())["type"] == "observation"
        await socket.send_json({"type": "step", "data": {"text": text}})
        reply = await socket.receive_json()
        assert (reply["type"], reply["data"]["code"]) == ("error", "EXECUTION_ERROR")
        assert "secret" not in json.dumps(reply)
        await socket.send_json({"type": "reset", "data": {}})
        assert (await socket.receive_json())["type"] == "observation"


@pytest.mark.parametrize("text", ["nan", "raise"])
async def test_mcp(http, text):
    params = {"name": "act", "arguments": {"text": text}, "session_id": await opened(http)}
    status, body = await posted(http, "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    assert status == 200
    assert "result" not in body
    assert "secret" not in json.dumps(body)


@pytest.mark.parametrize("text", ["nan", "raise"])
async def test_the_session_cannot_go_on_from_half_a_step_but_can_be_reset(odd, http, text):
    session = await opened(http)
    assert (await posted(http, "/step", step(session, "go")))[0] == 200
    first = await posted(http, "/step", step(session, text, 1))
    assert first[0] == 500
    again = await posted(http, "/step", step(session, text, 1))
    assert (again[0], again[1]["code"]) == (500, first[1]["code"])
    status, body = await posted(http, "/reset", {"session_id": session, "index": 3})
    assert (status, body["observation"]["step"]) == (200, 0)
    assert (await posted(http, "/step", step(session, "go")))[0] == 200


@pytest.mark.parametrize("text", [*NO_NUMBERS, *BROKEN, "text-none", "raise"])
async def test_a_training_client_is_told_that_the_service_failed(odd, text):
    async with EnvironmentClient(odd, retries=0) as environments:
        (session,) = await environments.open(1)
        await session.reset(index=0)
        with pytest.raises(Unavailable):
            await session.step(text)
