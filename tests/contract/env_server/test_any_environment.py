"""What every environment has to hold, whoever wrote it: being in the registry is enough to be tested here."""

import asyncio
import json

import aiohttp
import pytest

from arlarena.environment.registry import installed, load
from arlarena.proto.env import ResetSpec

GARBAGE = ("", "   ", "<action>", "<action></action>", "</think><action>x", "\x00\ud7ff", "?" * 5000, "{history}", "%s")


@pytest.fixture(scope="module", params=installed())
def environment(request):
    return load("test", request.param, {})


@pytest.fixture(scope="module", params=installed())
def address(request, tmp_path_factory, start_server):
    with start_server(tmp_path_factory.mktemp(request.param), request.param, capacity=8, ttl=2) as (url, _):
        yield url


def specs(environment, count=4):
    """Some tasks of each split."""
    return [
        ResetSpec(split=split.name, index=index)
        for split in environment.info.splits
        for index in range(min(count, split.size or count))
    ]


def begin(environment, spec):
    return environment.start(environment.task(spec))


def some_replies(environment, spec):
    """Replies that do something, where there is an expert, and some that say nothing."""
    plan = begin(environment, spec).expert() if "expert" in environment.info.capabilities else []
    return [*GARBAGE[:2], *plan[: len(plan) // 2], "<think>x</think><action>nothing of use</action>", *GARBAGE[2:]]


def transcript(episode, replies):
    """What the environment says, until the episode is over."""
    said = [episode.observe()]
    for reply in replies:
        if episode.done:
            break
        said.append(episode.step(reply))
    return said


# ---- what it says of itself ------------------------------------------------------------------------------------------


def test_it_describes_itself(environment):
    info = environment.info
    assert info.name in installed()
    assert all((info.version, info.description, info.template.version, info.template.text, info.parser.version))
    assert info.horizon > 0
    assert len({split.name for split in info.splits}) == len(info.splits)
    assert any(split.evaluation for split in info.splits), "no split is held out"
    assert not info.splits[0].evaluation, "the default split is one for training"
    json.dumps(info.options)


def test_tasks_are_named_and_found_by_their_names(environment):
    for spec in specs(environment):
        task = environment.task(spec)
        assert environment.task(ResetSpec(task_id=task.id)).id == task.id
        assert environment.task(ResetSpec(task_id=task.id, split=spec.split, index=spec.index)).id == task.id


def test_no_task_of_an_evaluation_split_occurs_in_training(environment):
    """By content, which the environment has to name for that."""

    def contents(evaluation):
        splits = {split.name for split in environment.info.splits if split.evaluation is evaluation}
        firsts = [begin(environment, spec).observe() for spec in specs(environment, 40) if spec.split in splits]
        return {first.metadata.room_key for first in firsts}

    assert "" not in contents(True) | contents(False)
    assert not contents(True) & contents(False)


# ---- episodes --------------------------------------------------------------------------------------------------------


def test_the_same_task_and_replies_give_the_same_transcript(environment):
    for spec in specs(environment):
        replies = some_replies(environment, spec)
        once, again = (transcript(begin(environment, spec), replies) for _ in range(2))
        assert once == again


def test_the_first_observation_is_one(environment):
    for spec in specs(environment):
        first = begin(environment, spec).observe()
        seen = first.observation
        assert (first.reward, first.done, seen.step, seen.remaining_steps) == (None, False, 0, environment.info.horizon)
        assert seen.text
        assert seen.text in seen.prompt
        assert seen.action_valid
        assert seen.format_valid
        assert first.metadata.task_id == environment.task(spec).id
        assert first.metadata.state_key
        assert first.metadata.observation_key
        assert 0 <= first.metadata.score < 1


def test_an_episode_ends_at_the_horizon_at_the_latest(environment):
    episode, results = begin(environment, ResetSpec(index=1)), []
    while not episode.done:
        results.append(episode.step("nothing of use"))
    assert len(results) <= environment.info.horizon
    assert [result.observation.step for result in results] == list(range(1, len(results) + 1))
    last = results[-1]
    assert last.done
    assert last.observation.terminated or last.observation.truncated
    assert not any(result.done for result in results[:-1])
    with pytest.raises(RuntimeError):
        episode.step("more")


def test_what_cannot_be_read_is_marked_and_costs_a_step(environment):
    for garbage in GARBAGE:
        episode = begin(environment, ResetSpec(index=1))
        result = episode.step(garbage)
        assert (result.observation.step, result.observation.format_valid) == (1, False)
        assert isinstance(result.reward, float)
        json.dumps(result.observation.text)


def test_the_strict_format_is_known(environment):
    if "expert" not in environment.info.capabilities:
        pytest.skip("this environment has no expert")
    episode = begin(environment, ResetSpec(index=1))
    strict = episode.expert()[0]
    assert episode.fork().step(strict).observation.format_valid
    assert not episode.fork().step(strict + "!").observation.format_valid


def test_the_expert_solves_it_in_the_strict_format(environment):
    if "expert" not in environment.info.capabilities:
        pytest.skip("this environment has no expert")
    for spec in specs(environment):
        episode = begin(environment, spec)
        for position, reply in enumerate(plan := episode.expert()):
            assert episode.expert() == plan[position:]
            result = episode.step(reply)
            assert (result.observation.action_valid, result.observation.format_valid) == (True, True)
        assert (result.done, result.metadata.success, result.metadata.score) == (True, True, 1.0)


def test_forks_go_their_own_ways(environment):
    for spec in specs(environment, 2):
        episode, replies = begin(environment, spec), some_replies(environment, spec)
        transcript(episode, replies[:2])
        twin = episode.fork()
        assert twin.observe() == episode.observe()
        expected = transcript(episode.fork(), replies[2:])
        assert transcript(episode, replies[2:]) == expected
        assert twin.steps == 2
        assert transcript(twin, replies[2:]) == expected


def test_keys_repeat_with_the_state_and_not_with_the_step(environment):
    """A step that changes nothing leaves the keys as they were, or nothing would ever be compared with anything."""
    episode = begin(environment, ResetSpec(index=1))
    first = episode.step("nothing of use").metadata
    second = episode.step("nothing of use").metadata
    assert (first.state_key, first.observation_key) == (second.state_key, second.observation_key)
    assert begin(environment, ResetSpec(index=2)).observe().metadata.state_key != first.state_key


# ---- behind the server -----------------------------------------------------------------------------------------------


async def call(session, address, method, path, body=None):
    async with session.request(method, address + path, json=body) as reply:
        return reply.status, await reply.json() if reply.content_type == "application/json" else None


async def test_a_repeated_step_moves_nothing_and_one_out_of_turn_is_refused(address):
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


async def test_experts_are_silent_on_evaluation_splits(address):
    async with aiohttp.ClientSession() as session:
        _, info = await call(session, address, "GET", "/v1/info")
        for split in info["splits"]:
            reset = {"reset": [{"split": split["name"], "index": 0}]}
            _, opened = await call(session, address, "POST", "/v1/sessions", reset)
            name = opened["sessions"][0]["session_id"]
            status, _ = await call(session, address, "GET", f"/v1/sessions/{name}/expert")
            assert status == (403 if split["evaluation"] else 200), split
            await call(session, address, "DELETE", f"/v1/sessions/{name}")
