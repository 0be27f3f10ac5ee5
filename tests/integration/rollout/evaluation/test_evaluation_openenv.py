"""Episodes over OpenEnv's sockets: on our own server, and on a server whose frames break the rules."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from support.environments.environment_support import environment_server
from support.openenv.scripted_openenv import (
    QUICK,
    TEXT_ACTION,
    failed,
    frame,
    observed,
    outcome_of,
    play,
    scripted_openenv,
    solve,
)

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import AtCapacity, ProtocolError, Refused, ServiceError, SessionLost, Unavailable
from arlarena.client.transport import Timeouts
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.openenv.client import OpenEnvClient
from arlarena.rollout.evaluation.openenv.description import detect
from arlarena.rollout.evaluation.openenv.rules import SEEDS, OpenEnvSettings


@pytest.fixture(scope="module")
def sokoban(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with environment_server(tmp_path_factory.mktemp("sokoban"), capacity=3) as (url, _):
        yield url


async def test_an_episode_equals_that_of_our_own_client(sokoban: str) -> None:
    replies = await solve(sokoban, 2)
    task = {"split": "train", "index": 2, "seed": 0}
    async with EnvironmentClient(sokoban, QUICK) as own, OpenEnvClient(sokoban, timeouts=QUICK) as foreign:
        (one,) = await own.open(1)
        (two,) = await foreign.open(1)
        expected, found = await play(one, replies, **task), await play(two, replies, **task)
        again = await play(two, replies, **task)
        other = await two.reset(split="train", index=3, seed=0)
        await one.close()
        await two.close()
    assert [state.prompt for state in found] == [state.prompt for state in expected]
    assert [state.reward for state in found] == [state.reward for state in expected]
    assert [state.done for state in found] == [state.done for state in expected]
    assert found[-1].metadata.success
    assert found[-1].metadata.score == 1.0
    assert not any(state.metadata.success for state in found[:-1])
    assert found[0].observation.message is None  # the field `prompt` is complete, so there is no conversation
    keys = [state.metadata.state_key for state in found]
    assert [state.metadata.state_key for state in again] == keys
    assert len({*keys, other.metadata.state_key}) == len(keys) + 1


async def test_a_failed_episode_is_no_success(sokoban: str) -> None:
    async with OpenEnvClient(sokoban, timeouts=QUICK) as client:
        (session,) = await client.open(1)
        state = await session.reset(split="test", index=2, seed=0)
        while not state.done:
            state = await session.step("still")
        await session.close()
    assert state.observation.truncated
    assert not state.observation.terminated
    assert (state.metadata.success, state.metadata.score) == (False, 0.0)


async def test_seeds_are_tasks_of_servers_without_splits(sokoban: str) -> None:
    async with EnvironmentClient(sokoban, QUICK) as own, OpenEnvClient(sokoban, timeouts=QUICK) as foreign:
        (one,) = await own.open(1)
        (two,) = await foreign.open(1)
        expected = await one.reset(seed=12)
        found = await two.reset(split=SEEDS, index=5, seed=7)
        assert found.prompt == expected.prompt
        assert (await two.reset(split=SEEDS, index=6, seed=7)).prompt != expected.prompt
        await one.close()
        await two.close()


async def test_a_full_server_is_at_capacity_until_a_session_ends(sokoban: str) -> None:
    async with OpenEnvClient(sokoban, timeouts=QUICK) as client:
        sessions = await client.open(3)
        with pytest.raises(AtCapacity, match="CAPACITY_REACHED") as raised:
            await client.open(1)
        assert raised.value.retry_after_s > 0
        await sessions[0].close()
        deadline = asyncio.get_running_loop().time() + 10
        with pytest.raises(AtCapacity):  # all or nothing
            await client.open(2)
        while True:
            try:
                (opened,) = await client.open(1)
                break
            except AtCapacity:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.05)
        for session in (*sessions[1:], opened):
            await session.close()


async def test_the_description_has_the_identity_and_the_splits_of_the_server(sokoban: str) -> None:
    async with EnvironmentClient(sokoban, QUICK) as own, OpenEnvClient(sokoban, timeouts=QUICK) as foreign:
        own_info, info = await own.info(), await foreign.info()
    assert info.name == own_info.name
    assert re.fullmatch(re.escape(own_info.version) + r"\+schema\.[0-9a-f]{16}", info.version)
    assert (info.options["action_field"], info.horizon) == ("text", 50)
    splits = {split.name: (split.size, split.evaluation) for split in info.splits}
    assert splits[SEEDS] == (None, False)
    assert splits.keys() == {SEEDS} | {split.name for split in own_info.splits}
    (test,) = [split for split in own_info.splits if split.name == "test"]
    assert splits["test"] == (test.size, test.evaluation)
    assert not splits["train"][1]


async def test_the_schema_is_part_of_the_version() -> None:
    versions = []
    for field in ("text", "reply"):
        action = {"type": "object", "properties": {field: {"type": "string"}}, "required": [field]}
        async with scripted_openenv(schemas={"action": action}) as server, OpenEnvClient(server.url) as client:
            versions.append((await client.info()).version)
    assert versions[0] != versions[1]
    assert all(version.startswith("unversioned+schema.") for version in versions)


async def test_the_kind_of_a_server_is_detected(sokoban: str) -> None:
    assert await detect(sokoban) == "ours"
    async with scripted_openenv() as server:
        assert await detect(server.url) == "openenv"
    async with scripted_openenv(schemas={"observation": {}}) as server:
        with pytest.raises(
            EvaluationError, match=r"neither an ARLArena .* nor an OpenEnv .*/schema: action is missing"
        ):
            await detect(server.url)
    async with scripted_openenv(metadata=[]) as server:
        with pytest.raises(EvaluationError, match="/metadata"):
            await detect(server.url)
    with pytest.raises(Unavailable):
        await detect("http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        (frame('{"observation":{},"reward":NaN,"done":false}'), "reward is nan"),
        (frame('{"observation":{},"reward":-Infinity,"done":false}'), "reward is -inf"),
        (frame('{"observation":{},"reward":1e999,"done":false}'), "reward is inf"),
        (frame('{"observation":{},"reward":1' + "0" * 400 + ',"done":false}'), "reward is"),
        (frame('{"observation":{},"reward":"1","done":false}'), "reward is str"),
        (frame('{"observation":{},"reward":null,"done":true}'), "reward is null"),
        (frame('{"observation":{},"done":false}'), "reward is missing"),
        (frame('{"observation":{},"reward":0}'), "done is missing"),
        (frame('{"observation":{},"reward":0,"done":1}'), "done is int"),
        (frame('{"reward":0,"done":false}'), "observation is missing"),
        (frame('{"observation":[],"reward":0,"done":false}'), "observation is list"),
        (frame('{"observation":{"text":"\\ud800"},"reward":0,"done":false}'), r"observation\.text"),
        (frame("5"), "data of the reply"),
        (frame("[" * 100_000), "not JSON"),
        ('{"type":"state","data":{}}', "type of the reply"),
        ("[]", "type of the reply"),
        ("{", "not JSON"),
        (failed("SURPRISE"), "unknown error code"),
    ],
)
async def test_an_invalid_reply_is_an_error_with_the_server_and_the_field(answer: str, field: str) -> None:
    await outcome_of(ProtocolError, rf"/ws: .*{field}", step=answer)
    await outcome_of(ProtocolError, rf"/ws: .*{field}", reset=answer)


async def test_a_large_frame_is_an_error_and_is_not_read() -> None:
    async def flood(socket: web.WebSocketResponse, received: dict[str, Any]) -> None:
        await socket.send_str(observed("x" * (8 << 20)))

    await outcome_of(ProtocolError, r"/ws: a frame from the server is larger than 1048576 bytes", step=flood)


async def test_frames_without_a_request_are_an_error() -> None:
    async def chatter(socket: web.WebSocketResponse, received: dict[str, Any]) -> None:
        for _ in range(20):
            await socket.send_str(observed())
        await asyncio.sleep(0.2)

    async with scripted_openenv(reset=chatter) as server, OpenEnvClient(server.url) as client:
        (session,) = await client.open(1)
        await session.reset(split=SEEDS, index=0, seed=0)
        await asyncio.sleep(0.1)
        with pytest.raises(ProtocolError, match="without a request"):
            await session.step("left")
        await session.close()


@pytest.mark.parametrize(
    ("code", "error", "on_reset"),
    [
        ("EXECUTION_ERROR", Refused, Unavailable),
        ("SESSION_ERROR", Refused, SessionLost),
        ("FACTORY_ERROR", Unavailable, Unavailable),
        ("CAPACITY_REACHED", AtCapacity, AtCapacity),
        ("INVALID_JSON", Refused, Refused),
    ],
)
async def test_error_codes_have_the_classes_of_the_client(
    code: str, error: type[ServiceError], on_reset: type[ServiceError]
) -> None:
    await outcome_of(error, f"/ws: step: {code}: why", step=failed(code))
    await outcome_of(on_reset, f"/ws: reset: {code}: why", reset=failed(code))


@pytest.mark.parametrize(
    ("code", "error"),
    [("CAPACITY_REACHED", AtCapacity), ("FACTORY_ERROR", Unavailable), ("SESSION_ERROR", SessionLost)],
)
async def test_an_error_after_the_connection_is_that_of_open(code: str, error: type[ServiceError]) -> None:
    await outcome_of(error, code, greeting=failed(code))


async def test_a_lost_connection_loses_the_session() -> None:
    async def abort(socket: web.WebSocketResponse, received: dict[str, Any]) -> None:
        await socket.close(code=1011)

    await outcome_of(SessionLost, r"/ws: the server closed the connection \(code 1011\)", step=abort)


async def test_a_silent_server_is_unavailable_and_its_late_reply_is_not_used() -> None:
    async def late(socket: web.WebSocketResponse, received: dict[str, Any]) -> None:
        await asyncio.sleep(0.4)
        await socket.send_str(observed("late"))

    async with (
        scripted_openenv(step=late) as server,
        OpenEnvClient(server.url, timeouts=Timeouts(2.0, 0.2)) as client,
    ):
        (session,) = await client.open(1)
        await session.reset(split=SEEDS, index=0, seed=0)
        with pytest.raises(Unavailable, match=r"no answer to step within 0\.2 s"):
            await session.step("left")
        await asyncio.sleep(0.5)
        with pytest.raises(SessionLost):
            await session.step("left")
        await session.close()


async def test_a_server_without_the_route_refuses() -> None:
    async with scripted_openenv() as server, OpenEnvClient(server.url) as client:
        await client.info()
        client._transport.url += "/other"
        with pytest.raises(Refused, match="HTTP 404"):
            await client.open(1)


async def test_pings_are_answered_while_the_model_thinks() -> None:
    alive = asyncio.Event()

    async def ping(socket: web.WebSocketResponse, received: dict[str, Any]) -> None:
        await socket.send_str(observed())
        await socket.ping(b"there?")
        assert socket._reader is not None
        message = await asyncio.wait_for(socket._reader.read(), 5)
        assert message.type == aiohttp.WSMsgType.PONG
        alive.set()

    async with scripted_openenv(reset=ping) as server, OpenEnvClient(server.url) as client:
        (session,) = await client.open(1)
        await session.reset(split=SEEDS, index=0, seed=0)
        await asyncio.wait_for(alive.wait(), 5)
        await session.close()


async def test_a_reply_without_an_action_takes_a_turn_and_tells_the_model() -> None:
    async with scripted_openenv() as server, OpenEnvClient(server.url) as client:
        (session,) = await client.open(1)
        first = await session.reset(split=SEEDS, index=0, seed=0, episode_id="e")
        state = await session.step("<think>endless")
        sent = [one["type"] for one in server.received]
        await session.close()
    assert server.received[1]["data"] == {"seed": 0, "episode_id": "e"}
    assert "step" not in sent
    assert state.observation.message
    assert "not closed" in state.observation.message
    assert (state.metadata.no_action, state.observation.action_valid, state.reward) == (True, False, 0.0)
    assert state.metadata.state_key == first.metadata.state_key


async def test_an_action_against_the_schema_takes_a_turn_and_tells_the_model() -> None:
    refusal = failed("VALIDATION_ERROR", "Invalid message", errors=[{"loc": ["text"], "msg": "too short"}])
    settings = OpenEnvSettings(max_steps=2)
    async with scripted_openenv(step=refusal) as server, OpenEnvClient(server.url, settings) as client:
        (session,) = await client.open(1)
        await session.reset(split=SEEDS, index=0, seed=0)
        state = await session.step("x")
        assert "text: too short" in (state.observation.message or "")
        assert (state.metadata.action, state.done) == ("x", False)
        assert (await session.step("x")).observation.truncated
        await session.close()


async def test_the_limit_of_steps_ends_an_episode_without_success() -> None:
    settings = OpenEnvSettings(max_steps=2)
    async with (
        scripted_openenv(step=observed(reward=0.25)) as server,
        OpenEnvClient(server.url, settings) as client,
    ):
        (session,) = await client.open(1)
        states = await play(session, ["a", "b"], split=SEEDS, index=0, seed=0)
        await session.close()
    assert [state.done for state in states] == [False, False, True]
    assert states[-1].observation.truncated
    assert (states[-1].metadata.success, states[-1].metadata.score) == (False, 0.25)
    assert [state.observation.remaining_steps for state in states] == [2, 1, 0]


async def test_instructions_come_before_the_first_observation_of_a_conversation() -> None:
    given = OpenEnvSettings(instructions="Be brief.")
    both = OpenEnvSettings(instructions="Be brief.", conversation=False)
    messages = []
    for settings in (given, both):
        async with scripted_openenv() as server, OpenEnvClient(server.url, settings) as client:
            (session,) = await client.open(1)
            states = await play(session, ["a"], split=SEEDS, index=0, seed=0)
            messages.append([(state.observation.message, state.prompt) for state in states])
            await session.close()
    assert messages[0] == [("Be brief.\n\ngo", "Be brief.\n\ngo"), ("go", "go")]
    assert messages[1] == [(None, "Be brief.\n\ngo")] * 2


async def test_the_state_key_is_of_all_observations_so_far() -> None:
    keys = {}
    for name, texts in {"ab": ("a", "b"), "cb": ("c", "b"), "ab again": ("a", "b")}.items():
        remaining = list(texts)

        async def answer(
            socket: web.WebSocketResponse, received: dict[str, Any], remaining: list[str] = remaining
        ) -> None:
            await socket.send_str(observed(remaining.pop(0), metadata={"time": id(socket)}))

        async with scripted_openenv(step=answer) as server, OpenEnvClient(server.url) as client:
            (session,) = await client.open(1)
            states = await play(session, ["x", "y"], split=SEEDS, index=0, seed=0)
            keys[name] = states[-1].metadata.state_key
            await session.close()
    assert keys["ab"] == keys["ab again"] != keys["cb"]


async def test_a_token_is_sent_and_not_shown() -> None:
    async with (
        scripted_openenv(step=failed("EXECUTION_ERROR")) as server,
        OpenEnvClient(server.url, token="secret-token") as client,
    ):
        (session,) = await client.open(1)
        await session.reset(split=SEEDS, index=0, seed=0)
        with pytest.raises(Refused) as raised:
            await session.step("x")
        await session.close()
    assert server.headers == ["Bearer secret-token"]
    assert "secret-token" not in str(raised.value)


async def test_a_closed_session_ends_its_socket() -> None:
    async with scripted_openenv() as server, OpenEnvClient(server.url) as client:
        sessions = await client.open(4)
        assert server.sockets == 4
        await asyncio.gather(*(session.close() for session in sessions))
        assert server.received[-1] == {"type": "close"}
        deadline = asyncio.get_running_loop().time() + 5
        while server.sockets:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)


async def test_a_closed_client_ends_its_sessions() -> None:
    async with scripted_openenv() as server:
        async with OpenEnvClient(server.url) as client:
            sessions = await client.open(2)
        assert [one["type"] for one in server.received] == ["state", "state", "close", "close"]
        with pytest.raises(SessionLost):
            await sessions[0].reset(split=SEEDS, index=0, seed=0)


async def test_features_that_openenv_lacks_are_refused() -> None:
    async with scripted_openenv(schemas={"action": TEXT_ACTION}) as server, OpenEnvClient(server.url) as client:
        (session,) = await client.open(1)
        with pytest.raises(Refused, match="no expert"):
            await session.expert()
        with pytest.raises(Refused, match="step before a reset"):
            await session.step("x")
        await session.close()
