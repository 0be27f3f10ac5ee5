"""`arlarena eval` as a user runs it: real processes, real servers, and an imitation of a model's API."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.environments.environment_support import environment_server
from support.evaluation.command_support import command, ended, servers_of
from support.evaluation.evaluation_support import middle
from support.evaluation.faults import FaultRates
from support.evaluation.imitation import Imitation, serve
from support.evaluation.sdks import needs_sdk

from arlarena.rollout.evaluation.directory import JOURNAL, read_journal
from arlarena.rollout.evaluation.records import AttemptRecord, ReplyEvent

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def guess(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with environment_server(tmp_path_factory.mktemp("guess"), "guess", capacity=64) as (url, _):
        yield url


def guesser(**options: object) -> Imitation:
    """A model that solves `guess`."""
    needs_sdk("openai")
    return Imitation("openai", script=lambda messages: middle(messages, 0), **options)  # type: ignore[arg-type]


def records(directory: Path) -> list[AttemptRecord]:
    return [event for event in read_journal(directory / JOURNAL) if isinstance(event, AttemptRecord)]


def replies(directory: Path) -> int:
    return sum(isinstance(event, ReplyEvent) for event in read_journal(directory / JOURNAL))


async def until(condition, timeout: float = 30.0) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'MODEL'"),
        (["expert", "--nope"], "No such option: --nope"),
        (["expert", "--env", "guess", "--count", "0"], "Invalid value for '--count'"),
        (["expert", "--env", "guess", "--max-cost", "nan"], "Invalid value for '--max-cost'"),
        (["openai/gpt-5", "--env", "guess"], "OPENAI_API_KEY"),
        (["expert"], "give --env NAME"),
    ],
)
async def test_a_wrong_option_is_one_line_with_status_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    if message == "OPENAI_API_KEY":
        needs_sdk("openai")
    out = ["--out", tmp_path / "out"] if arguments else []
    code, shown, error = await ended(*arguments, *out, variables={"ARLARENA_PROGRAM": "arlarena eval"})
    assert (code, shown) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert "--help" not in error or "`arlarena eval --help`" in error
    assert not (tmp_path / "out").exists()


async def test_the_help_has_the_name_of_the_command() -> None:
    code, shown, error = await ended("--help", variables={"ARLARENA_PROGRAM": "arlarena eval"})
    assert (code, error) == (0, "")
    assert "Usage: arlarena eval [OPTIONS]" in shown


async def test_a_missing_server_is_named(tmp_path: Path) -> None:
    code, _, error = await ended("expert", "--env", "http://127.0.0.1:9", "--count", 1, "--out", tmp_path)
    assert code == 1
    assert error.startswith("error: --env http://127.0.0.1:9: ")
    assert error.count("\n") == 1


async def test_a_server_that_does_not_start_is_named_with_the_cause(tmp_path: Path) -> None:
    arguments = ("expert", "--count", 1, "--env", "guess", "--env", "sokoban", "--option", "sokoban:sise=7")
    code, _, error = await ended(*arguments, "--out", tmp_path)
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith("error: --env sokoban: [environment.options] unknown key 'sise'; did you mean 'size'?")
    assert servers_of(tmp_path) == []


async def test_the_expert_plays_any_split_of_two_environments_that_start_here(tmp_path: Path) -> None:
    arguments = ("expert", "--env", "guess", "--env", "sokoban", "--count", 2, "--out", tmp_path)
    code, shown, error = await ended(*arguments, variables={"ARLARENA_ENVIRONMENT_TOKEN": "t" * 20})
    assert (code, error) == (0, ""), error
    assert [record.success for record in records(tmp_path)] == [True] * 4
    assert {record.key.environment for record in records(tmp_path)} == {"guess", "sokoban"}
    assert (tmp_path / "report.html").exists()
    assert json.loads((tmp_path / "summary.json").read_text())
    assert "100.0" in shown
    assert servers_of(tmp_path) == []


async def test_a_model_with_faults_completes_and_no_answer_is_asked_twice(guess: str, tmp_path: Path) -> None:
    async with serve(guesser(faults=FaultRates.uniform(0.2, seed=1), hang_s=0.05)) as server:
        code, _, error = await ended(
            *("gpt-x", "--base-url", server.url, "--env", guess, "--count", 6, "--out", tmp_path, "--temperature", 0.5)
        )
        assert (code, error) == (0, ""), error
        done = records(tmp_path)
        assert len(done) == 6
        assert all(record.scored for record in done)
        assert sum(record.requests for record in done) == server.counts.requests
        assert sum(server.counts.answered.values()) == replies(tmp_path) < server.counts.requests


async def test_another_plan_in_the_same_directory_is_refused_with_the_difference(guess: str, tmp_path: Path) -> None:
    common = ("expert", "--env", guess, "--split", "train", "--out", tmp_path)
    assert (await ended(*common, "--count", 2))[0] == 0
    code, _, error = await ended(*common, "--count", 3, "--seed", 4)
    assert (code, error.count("\n")) == (1, 1)
    assert "has another evaluation, which differs in seed (--seed: earlier 0, now 4)" in error
    assert "guess.indices (--first, --count or --tasks: earlier [0,1], now [0,1,2])" in error
    assert len(records(tmp_path)) == 2


async def test_a_dry_run_sends_nothing_and_leaves_nothing(guess: str, tmp_path: Path) -> None:
    async with serve(guesser()) as server:
        arguments = ("gpt-x", "--base-url", server.url, "--env", guess, "--count", 3, "--attempts", 2)
        code, shown, error = await ended(*arguments, "--out", tmp_path / "out", "--dry-run")
        assert (code, error, server.counts.requests) == (0, "", 0), error
    assert "3 tasks of split test, 2 attempts each" in shown
    assert "cost unknown" in shown
    assert not (tmp_path / "out").exists()


async def test_ctrl_c_ends_with_130_and_the_same_command_goes_on_without_asking_again(
    guess: str, tmp_path: Path
) -> None:
    async with serve(guesser(delay_s=0.05)) as server:
        arguments = ("m", "--base-url", server.url, "--env", guess, "--count", 8, "--concurrency", 2, "--out", tmp_path)
        for number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
            seen = server.counts.requests
            async with command(*arguments) as running:
                await until(lambda seen=seen: server.counts.requests >= seen + 4)  # type: ignore[misc]
                os.kill(running.process.pid, number)
                await running.end()
            assert running.code == status, running.err
            if number == signal.SIGINT:
                assert "stopped: SIGINT was received" in running.out
                assert replies(tmp_path) == server.counts.requests
        assert (await ended(*arguments))[0] == 0
        assert len(records(tmp_path)) == 8
        assert replies(tmp_path) <= server.counts.requests <= replies(tmp_path) + 2, "two in flight at the kill"


async def test_a_budget_of_tokens_ends_with_1_and_a_larger_one_goes_on(guess: str, tmp_path: Path) -> None:
    async with serve(guesser()) as server:
        arguments = ("m", "--base-url", server.url, "--env", guess, "--count", 3, "--concurrency", 1, "--out", tmp_path)
        code, shown, error = await ended(*arguments, "--max-total-tokens", 1)
        assert (code, server.counts.requests) == (1, 1), error
        assert "the budget of 1 tokens is spent" in shown
        code, _, error = await ended(*arguments)
        assert (code, len(records(tmp_path))) == (0, 3), error
        assert server.counts.requests == replies(tmp_path)


async def test_a_started_server_that_dies_ends_the_evaluation_and_a_killed_command_leaves_no_server(
    tmp_path: Path,
) -> None:
    async with serve(guesser(delay_s=0.2)) as server:
        arguments = ("m", "--base-url", server.url, "--env", "guess", "--count", 8, "--concurrency", 2)
        async with command(*arguments, "--out", tmp_path) as running:
            await until(lambda: server.counts.requests >= 2)
            for pid in servers_of(tmp_path):
                os.kill(pid, signal.SIGKILL)
            await running.end()
        assert running.code == 1
        assert "the environment server of guess ended with exit status -9" in running.err
        *events, error = running.err.splitlines()
        assert error.startswith("error: ")
        assert all(event.startswith("{") for event in events)
        seen = server.counts.requests
        async with command(*arguments, "--out", tmp_path) as running:
            await until(lambda: server.counts.requests > seen)
            running.process.kill()
            await running.end()
        await until(lambda: not servers_of(tmp_path))


@pytest.mark.slow  # five environment servers start: 50 s on two busy cores
async def test_images_conversations_and_standard_sets_reach_the_model(tmp_path: Path) -> None:
    needs_sdk("openai")
    replies_of_turns = {1: "```python\nprint(1)\n``` <action>up</action>", 3: "\\boxed{1}"}
    async with serve(Imitation("openai", script=lambda messages: replies_of_turns[len(messages)])) as server:
        common = ("m", "--base-url", server.url)
        image = ("--env", "sokoban", "--option", "observation=image", "--option", "max_steps=2", "--count", 1)
        code, _, error = await ended(*common, *image, "--out", tmp_path / "images")
        assert code == 0, error
        assert len(server.last.messages[-1].images) == 1
        seen = server.counts.requests
        code, _, error = await ended(*common, *image, "--no-images", "--out", tmp_path / "none")
        assert code == 0, error
        assert server.counts.requests > seen
        assert not server.last.messages[-1].images
        code, _, error = await ended(*common, "--env", "tir_math", "--count", 2, "--out", tmp_path / "math")
        assert code == 0, error
        assert [message.role for message in server.last.messages] == ["user", "assistant", "user"]
        assert [record.steps for record in records(tmp_path / "math")] == [2, 2]
    code, _, error = await ended("expert", "--set", "guess-v1", "--out", tmp_path / "set")
    assert code == 0, error
    assert {record.success for record in records(tmp_path / "set")} == {True}
    code, _, error = await ended("expert", "--env", "tir_math", "--count", 2, "--out", tmp_path / "expert")
    assert code == 0, error
    assert all(record.success for record in records(tmp_path / "expert"))
