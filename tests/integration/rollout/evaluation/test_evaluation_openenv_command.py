"""`arlarena eval` on OpenEnv servers, as a user runs it."""

import asyncio
import json
import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.environments.environment_support import environment_server
from support.evaluation.command_support import command, ended
from support.evaluation.imitation import Imitation, serve
from support.evaluation.sdks import needs_sdk
from support.openenv.number_game import NumberGame, bisect
from support.openenv.scripted_openenv import TEXT_ACTION, ScriptedOpenEnv, frame, observed, scripted_openenv
from support.rollout.rollout_support import served

from arlarena.proto.telemetry import Logger
from arlarena.rollout.evaluation.certificate.rescore import RescoreRequest, rescore
from arlarena.rollout.evaluation.directory import JOURNAL, read_journal
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.openenv.rules import MAX_TEXT_CHARS
from arlarena.rollout.evaluation.records import AttemptRecord, ReplyEvent

pytestmark = pytest.mark.processes
FOUND = {0: False} | dict.fromkeys(range(1, 8), True)  # by number: whether `bisect` finds it


def guesser(**options: Any) -> Imitation:
    needs_sdk("openai")
    return Imitation("openai", script=bisect, **options)


def numbers(game: NumberGame, **answers: Any) -> Any:
    return scripted_openenv(reset=game.reset, step=game.step, **answers)


def records(directory: Path) -> list[AttemptRecord]:
    return [event for event in read_journal(directory / JOURNAL) if isinstance(event, AttemptRecord)]


def replies(directory: Path) -> Counter[tuple[object, int]]:
    events = read_journal(directory / JOURNAL)
    return Counter((event.key, event.call) for event in events if isinstance(event, ReplyEvent))


def results(directory: Path) -> dict[int, set[bool]]:
    """For each number, the results of its attempts."""
    found: dict[int, set[bool]] = {}
    for record in records(directory):
        assert record.scored, record.error
        found.setdefault(record.key.index % 8, set()).add(record.success)
    return found


async def reached(model: Imitation, requests: int) -> None:
    async with asyncio.timeout(30):
        while model.counts.requests < requests:
            await asyncio.sleep(0.01)


async def test_a_complete_evaluation_and_its_repetition(tmp_path: Path) -> None:
    game = NumberGame(low=0)
    async with serve(guesser()) as model, numbers(game) as server:
        common = ("m", "--base-url", model.url, "--env", server.url, "--count", 8, "--attempts", 2, "--out", tmp_path)
        arguments = (*common, "--openenv", "instructions=Be brief.", "--openenv", "reset.level=3")
        code, shown, error = await ended(*arguments)
        assert code == 0, error
        assert "87.5" in shown
        requests = model.counts.requests
        asked = [message.text for message in model.received[0].messages]
        assert (await ended(*arguments))[0] == 0
        assert model.counts.requests == requests == sum(replies(tmp_path).values())
        code, _, error = await ended(*common)
        assert (code, error.count("\n")) == (1, 1)
        assert "has another evaluation, which differs in scripted.options" in error
    with pytest.raises(EvaluationError, match="scripted is an OpenEnv environment; only environments of ARLArena"):
        await rescore(RescoreRequest(tmp_path), Logger("test", "error"))
    assert asked[0] == "Be brief.\n\nGuess a number from 0 to 7."
    assert results(tmp_path) == {number: {found} for number, found in FOUND.items()}
    assert Counter(reset["seed"] for reset in game.resets) == dict.fromkeys(range(8), 2)
    assert {reset["level"] for reset in game.resets} == {3}
    (plan,) = json.loads((tmp_path / "plan.json").read_text())["environments"]
    assert (plan["name"], plan["split"], plan["indices"]) == ("scripted", "seeds", list(range(8)))
    assert plan["options"] | {"api": "openenv", "reset": {"level": 3}, "action_field": "text"} == plan["options"]
    (summary,) = json.loads((tmp_path / "summary.json").read_text())["environments"].values()
    assert (summary["planned"], summary["scored"], summary["results"]["success"]["mean"]) == (16, 16, 0.875)
    assert "Guess a number" in (tmp_path / "report.html").read_text()


async def test_tasks_of_the_server_and_the_seed_of_the_evaluation(tmp_path: Path) -> None:
    game = NumberGame()
    async with serve(guesser()) as model, numbers(game, splits={"train": 9, "test": 3}) as server:
        arguments = ("m", "--base-url", model.url, "--env", server.url, "--seed", 5)
        code, _, error = await ended(*arguments, "--out", tmp_path / "out")
        assert code == 0, error
        assert [record.success for record in sorted(records(tmp_path / "out"), key=lambda one: one.key)] == [
            False, True, True,
        ]  # fmt: skip
        assert sorted((reset["split"], reset["index"], reset["seed"]) for reset in game.resets) == [
            ("test", 0, 5), ("test", 1, 5), ("test", 2, 5),
        ]  # fmt: skip
        for wrong, message in (
            (("--split", "tast"), "--split tast: scripted has no such split; known: seeds, train, test"),
            (("--split", "seeds"), "split 'seeds' of scripted has no end: give --count or --tasks"),
        ):
            code, _, error = await ended(*arguments, *wrong, "--out", tmp_path / "wrong")
            assert (code, error.count("\n")) == (2, 1)
            assert message in error
        resets = len(game.resets)
        await ended(*arguments, "--split", "seeds", "--tasks", "4", "--out", tmp_path / "seeds")
        assert [reset["seed"] for reset in game.resets[resets:]] == [9]


async def test_a_dry_run_names_an_invalid_reply(tmp_path: Path) -> None:
    async with serve(guesser()) as model, scripted_openenv(reset=frame("{}")) as server:
        arguments = ("m", "--base-url", model.url, "--env", server.url, "--count", 1, "--dry-run")
        code, _, error = await ended(*arguments, "--out", tmp_path / "out")
    assert (code, error) == (1, f"error: {server.url}/ws: reset: observation is missing\n")


async def test_a_dry_run_shows_the_first_prompt_and_asks_no_model(tmp_path: Path) -> None:
    async with serve(guesser()) as model, numbers(NumberGame()) as server:
        arguments = ("m", "--base-url", model.url, "--env", server.url, "--openenv", "max_steps=4", "--count", 2)
        code, shown, error = await ended(*arguments, "--out", tmp_path / "out", "--dry-run")
        assert (code, error, model.counts.requests) == (0, "", 0)
    assert "2 tasks of split seeds, 1 attempt each, template openenv 1, at most 4 steps" in shown
    assert "Guess a number from 0 to 7." in shown
    bounds = re.search(r"at most 8 requests, about ([\d,]+) tokens in, ([\d,]+) out", shown)
    assert bounds
    read, written = (int(number.replace(",", "")) for number in bounds.groups())
    assert read > written, "each request of a conversation repeats the earlier replies"
    assert not (tmp_path / "out").exists()


async def test_a_killed_evaluation_resumes_without_asking_again(tmp_path: Path) -> None:
    async with serve(guesser(delay_s=0.05)) as model, numbers(NumberGame()) as server:
        arguments = ("m", "--base-url", model.url, "--env", server.url, "--count", 16, "--concurrency", 2)
        async with command(*arguments, "--out", tmp_path) as running:
            await reached(model, 8)
            os.kill(running.process.pid, signal.SIGKILL)
            await running.end()
        assert len(records(tmp_path)) < 16
        assert replies(tmp_path)
        code, _, error = await ended(*arguments, "--out", tmp_path)
        assert code == 0, error
        assert set(replies(tmp_path).values()) == {1}
        assert sum(replies(tmp_path).values()) <= model.counts.requests <= sum(replies(tmp_path).values()) + 2
    assert len(records(tmp_path)) == 16
    assert results(tmp_path) == {number: {found} for number, found in FOUND.items()}


async def test_a_server_that_dies_and_returns_costs_no_reply(tmp_path: Path) -> None:
    async with serve(guesser(delay_s=0.05)) as model:
        async with numbers(NumberGame()) as server:
            url = server.url
            arguments = ("m", "--base-url", model.url, "--env", url, "--count", 16, "--concurrency", 2)
            running = asyncio.ensure_future(ended(*arguments, "--out", tmp_path))
            await reached(model, 8)
        assert not running.done()
        async with numbers(NumberGame(), port=int(url.rpartition(":")[2])):
            code, _, error = await running
        assert code == 0, error
        assert sum(replies(tmp_path).values()) == model.counts.requests
    assert results(tmp_path) == {number: {found} for number, found in FOUND.items()}
    assert sum(record.restarts for record in records(tmp_path)) > 0


async def test_a_server_of_neither_kind_is_named(tmp_path: Path) -> None:
    async with served(web.Application()) as url:
        code, _, error = await ended("expert", "--env", url, "--count", 1, "--out", tmp_path)
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith(f"error: --env {url}: {url} is neither an ARLArena environment server")
    assert "nor an OpenEnv server" in error


async def test_a_token_is_required_and_sent(tmp_path: Path) -> None:
    async with serve(guesser()) as model, numbers(NumberGame(), token="open-sesame") as server:
        arguments = ("m", "--base-url", model.url, "--env", server.url, "--count", 1, "--out", tmp_path)
        for variables, problem in (
            ({}, "requires a token: put the token into ARLARENA_ENVIRONMENT_TOKEN"),
            ({"ARLARENA_ENVIRONMENT_TOKEN": "knock-knock"}, "rejects the token in ARLARENA_ENVIRONMENT_TOKEN"),
        ):
            code, _, error = await ended(*arguments, variables=variables)
            assert (code, error.count("\n")) == (1, 1)
            assert problem in error
            assert "knock-knock" not in error
        code, _, error = await ended(*arguments, variables={"ARLARENA_ENVIRONMENT_TOKEN": "open-sesame"})
        assert code == 0, error
    assert len(records(tmp_path)) == 1


INVALID = {
    "choose another field with --openenv text_field=NAME": {"reset": observed("x" * (MAX_TEXT_CHARS + 1))},
    "a frame from the server is larger than 16777216 bytes": {"reset": observed("x" * (17 << 20))},
    "observation is list, not an object": {"step": frame('{"observation":[],"reward":0,"done":false}')},
    "reward is inf, not a finite number": {"step": frame('{"observation":{},"reward":1e999,"done":true}')},
}
NO_SESSION = "the reply to state is not JSON"


async def test_an_invalid_reply_of_the_server_is_not_scored_and_named(tmp_path: Path) -> None:
    """The evaluations run at the same time, because each pauses for four seconds in all before it gives up."""

    async def evaluated(place: int, answers: dict[str, Any]) -> tuple[int | None, str, str]:
        async with scripted_openenv(**answers) as server:
            arguments = ("m", "--base-url", model.url, "--env", server.url, "--count", 2)
            return await ended(*arguments, "--out", tmp_path / str(place))

    async with serve(guesser()) as model:
        cases = [*INVALID.values(), {"state": "not JSON"}]
        *found, no_session = await asyncio.gather(*(evaluated(place, case) for place, case in enumerate(cases)))
    for place, (message, (code, shown, error)) in enumerate(zip(INVALID, found, strict=True)):
        assert (code, "Traceback" in error) == (1, False), error
        assert [record.status for record in records(tmp_path / str(place))] == ["infra_error"] * 2
        assert "not scored, 2 attempts: " in shown
        assert message in shown
    code, _, error = no_session
    assert (code, error.count("\n")) == (1, 1)
    assert re.search(f"the environment server opens no session: http://.*/ws: {NO_SESSION}", error)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"metadata": {"name": 5}}, "/metadata: name is int, not a string"),
        ({"metadata": {"name": "a\x1b[31m"}}, "/metadata: name is not a valid name"),
        ({"metadata": {"name": "x" * (2 << 20)}}, "/metadata"),
        ({"schemas": {"action": 5}}, "/schema: the field action is not a JSON Schema: 5"),
        ({"splits": {"test": -1}}, "num_tasks of the split 'test' is not a number of tasks"),
        ({"splits": {"x" * 300: 1}}, "/scripted/splits: the name of a split is"),
        ({"schemas": {"action": {"properties": {"metadata": {}}}}}, "describe the actions with --openenv instructions"),
    ],
)
async def test_an_invalid_description_of_the_server_is_named(
    answers: dict[str, Any], message: str, tmp_path: Path
) -> None:
    async with serve(guesser()) as model, scripted_openenv(**answers) as server:
        arguments = ("m", "--base-url", model.url, "--env", server.url, "--count", 2, "--out", tmp_path / "out")
        code, _, error = await ended(*arguments)
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith(f"error: --env {server.url}: ")
    assert message in error
    assert not (tmp_path / "out").exists()


async def test_a_name_that_is_a_path_names_no_file(tmp_path: Path) -> None:
    async with serve(guesser()) as model, numbers(NumberGame(), metadata={"name": "../../../up"}) as server:
        arguments = ("m", "--base-url", model.url, "--env", server.url, "--count", 1, "--out", tmp_path)
        code, _, error = await ended(*arguments)
        assert code == 0, error
    assert {record.key.environment for record in records(tmp_path)} == {"up"}


CLOSED = {"properties": {"text": {}, "board": {}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("expert",), "MODEL expert: scripted has no expert"),
        (("random",), "MODEL random: the schema of scripted lists no actions"),
        (("random", "--openenv", "text_field=bord"), "text_field=bord: "),
        (("random", "--openenv", "action_field=txt"), "did you mean 'text'?"),
        (("random", "--openenv", "max_steps=0"), "--openenv max_steps=0: write max_steps=VALUE"),
        (("random", "--option", "size=5"), "--option size: an option needs --env NAME"),
        (("person", "--set", "guess-v1"), "--set guess-v1: http://127.0.0.1"),
    ],
)
async def test_what_an_openenv_server_cannot_do_is_refused_at_the_start(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    async with scripted_openenv(schemas={"action": TEXT_ACTION, "observation": CLOSED}) as server:
        count = () if "--set" in arguments else ("--count", 1)
        code, _, error = await ended(*arguments, "--env", server.url, *count, "--out", tmp_path / "out")
        assert (code, error.count("\n")) == (2, 1), error
        assert message in error
        assert server.received == []
    assert not (tmp_path / "out").exists()


async def test_the_option_is_refused_for_our_own_server(tmp_path: Path) -> None:
    with environment_server(tmp_path, "guess") as (url, _):
        arguments = ("expert", "--env", url, "--count", 1, "--openenv", "max_steps=5", "--out", tmp_path / "out")
        code, _, error = await ended(*arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert f"--openenv is for OpenEnv servers, but the servers of --env are ARLArena servers ({url})" in error


async def test_a_random_player_chooses_among_the_choices_of_the_schema(tmp_path: Path) -> None:
    ways = {"type": "string", "enum": ["up", "down"]}
    action = {"type": "object", "properties": {"way": ways}, "required": ["way"]}
    server: ScriptedOpenEnv
    step = observed("on", reward=1.0, done=True)
    async with scripted_openenv(schemas={"action": action}, step=step) as server:
        code, _, error = await ended("random", "--env", server.url, "--count", 12, "--out", tmp_path)
        assert code == 0, error
        sent = [one["data"]["way"] for one in server.received if one["type"] == "step"]
    assert set(sent) == {"up", "down"}
    assert all(record.success for record in records(tmp_path))
