"""The worker as a process between a real environment server, real inference and a real broker; all may be killed."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.rollout.services_support import Process, Stack, running_stack

from arlarena.client.environments import EnvironmentClient
from arlarena.client.policy import PolicyClient
from arlarena.proto.config import exit_on_config_error
from arlarena.proto.streams.queue import DeadLetter, Streams
from arlarena.proto.trajectory import Group, GroupTask, Sampling, Task, Trajectory, read_groups
from arlarena.rollout.__main__ import main
from arlarena.rollout.episode import turn_seed
from arlarena.rollout.evaluate import describe
from arlarena.rollout.tokens import Tokens

pytestmark = pytest.mark.processes

LIMIT_S = 60.0
MANY = 12  # groups: enough that a service dies while they are played


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def workers(stack: Stack, redis_url: str, run_name: str) -> Iterator[Callable[[str], Process]]:
    """Start a worker of this test's run."""
    started: list[Process] = []

    def start(name: str) -> Process:
        arguments = (
            *("arlarena.rollout", "worker", "--config", str(stack.config), "--run-name", run_name, "--name", name),
            *("--environment-url", stack.environment.url, "--inference-url", stack.inference.url),
            *("--redis-url", redis_url),
        )
        process = Process(arguments, stack.folder / f"{run_name}-{name}.log")
        process.start(listens=False)
        started.append(process)
        return process

    yield start
    for process in started:
        process.stop()


@pytest.fixture
async def trainer(redis_url: str, run_name: str) -> AsyncIterator[Streams]:
    async with await Streams.connect(redis_url, run_name, lease_ttl_s=2.0) as streams:
        yield streams


def orders(n: int, size: int = 3) -> list[GroupTask]:
    return [GroupTask(f"g{i}", Task("sokoban", "train", i), size, Sampling(max_tokens=6)) for i in range(n)]


async def collect(streams: Streams, count: int) -> list[Group]:
    """The next `count` groups, each of which may come once."""
    found: dict[str, Group] = {}
    async with asyncio.timeout(LIMIT_S):
        while len(found) < count:
            for entry in await streams.collect(consumer="t", count=count, block_s=0.5):
                assert not isinstance(entry.item, DeadLetter), entry.item
                assert entry.group_id not in found
                found[entry.group_id] = entry.item
    return list(found.values())


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        await asyncio.sleep(0.02)


def check_no_artefact(group: Group, size: int = 3) -> None:
    """Complete, and every episode has run its course: to success, or to the horizon with a reward for each step."""
    assert group.size == len(group.trajectories) == size
    for one in group.trajectories:
        assert one.outcome == "ok"
        assert one.terminated != one.truncated
        assert one.success == one.terminated
        if one.truncated:
            assert len(one.turns) == 15
        assert all(turn.reward != 0.0 for turn in one.turns)


async def replayed(url: str, one: Trajectory, task: Task) -> list[tuple[str, float, bool, bool, str]]:
    """The episode's responses played again: prompts, rewards, marks and keys as the environment gives them now."""
    seen = []
    async with EnvironmentClient(url) as environments:
        (session,) = await environments.open(1)
        state = await session.reset(split=task.split, index=task.index, seed=task.seed)
        for turn in one.turns:
            prompt, key = state.prompt, state.metadata.state_key
            state = await session.step(turn.response)
            observation = state.observation
            seen.append((prompt, state.reward, observation.action_valid, observation.format_valid, key))
        assert state.done
        await session.close()
    return seen


async def test_groups_hold_the_exact_tokens_of_what_happened(
    stack: Stack, workers: Callable[[str], Process], trainer: Streams
) -> None:
    tokens = Tokens.load(stack.policy)
    await trainer.issue(orders(3))
    worker = workers("w0")
    groups = await collect(trainer, 3)
    for group in groups:
        check_no_artefact(group)
        assert group.oldest.step == group.newest.step == 0
        for one in group.trajectories:
            for turn in one.turns:
                assert len(turn.tokens()) == len(turn.behaviour_logprobs()) == len(turn.mask()) > 0
                assert turn.mask().all()
                assert np.isfinite(turn.behaviour_logprobs()).all()
                assert (turn.behaviour_logprobs() <= 0).all()
                assert turn.response == tokens.text(turn.tokens().tolist())
                ended = turn.tokens()[-1] == tokens.end_id
                assert turn.finish_reason == ("stop" if ended else "length")
                assert ended or len(turn.tokens()) == 6
        one = group.trajectories[0]
        recorded = [(turn.reward, turn.action_valid, turn.format_valid, turn.state_key) for turn in one.turns]
        again = await replayed(stack.environment.url, one, group.task)
        assert [entry[1:] for entry in again] == recorded
        assert [tokens.prompt(entry[0]) for entry in again] == [prompt.tolist() for prompt in one.prompts()]
    responses = [[turn.response for turn in one.turns] for one in groups[0].trajectories]
    assert len({json.dumps(one) for one in responses}) == 3, "members of a group sampled alike"
    assert worker.stop() == 0


async def test_the_logprobs_are_those_of_the_sampler(
    stack: Stack, workers: Callable[[str], Process], trainer: Streams
) -> None:
    await trainer.issue(orders(1, size=1))
    workers("w0")
    (group,) = await collect(trainer, 1)
    turn = group.trajectories[0].turns[0]
    # The same prompt and seed again: sampling depends on nothing else.
    async with PolicyClient(stack.inference.url) as policy:
        again = await policy.generate(turn.new_prompt().tolist(), group.sampling, seed=turn_seed("0/g0/0", 0))
    assert again.token_ids == turn.tokens().tolist()
    np.testing.assert_allclose(again.logprobs, turn.behaviour_logprobs(), atol=1e-5)


@pytest.mark.slow  # waits for time-outs; the killed inference server is the quick one
async def test_killed_environment_server_loses_no_group(
    stack: Stack, workers: Callable[[str], Process], trainer: Streams
) -> None:
    await trainer.issue(orders(MANY))
    worker = workers("w0")
    await until(lambda: worker.events("group_done"), "a first group")
    stack.environment.kill()
    await until(lambda: worker.events("episode_restarts"), "an episode that noticed")
    stack.environment.start()
    groups = await collect(trainer, MANY)
    for group in groups:
        check_no_artefact(group)
    assert sum(group.retries for group in groups) > 0
    assert worker.stop() == 0


@pytest.mark.slow  # half a minute: a policy server starts again; a killed worker is in the quick tests
async def test_killed_inference_server_loses_no_group(
    stack: Stack, workers: Callable[[str], Process], trainer: Streams
) -> None:
    await trainer.issue(orders(MANY))
    worker = workers("w0")
    await until(lambda: worker.events("group_done"), "a first group")
    stack.inference.kill()
    await until(lambda: worker.events("episode_restarts"), "an episode that noticed")
    stack.inference.start()
    groups = await collect(trainer, MANY)
    for group in groups:
        check_no_artefact(group)
    assert sum(group.retries for group in groups) > 0


async def test_the_groups_of_a_killed_worker_go_to_another(
    stack: Stack, workers: Callable[[str], Process], trainer: Streams
) -> None:
    await trainer.issue(orders(MANY))
    first = workers("w0")
    await until(lambda: first.events("group_done"), "a first group")
    first.kill()
    done = len(first.events("group_done"))
    workers("w1")
    groups = await collect(trainer, MANY)
    for group in groups:
        check_no_artefact(group)
    assert sum(group.worker == "w1" for group in groups) >= MANY - done - 3


async def test_sigterm_drains_and_leaves_no_session(
    stack: Stack, workers: Callable[[str], Process], trainer: Streams
) -> None:
    stack.environment.kill()  # and with it the sessions that the killed worker left
    stack.environment.start()
    await trainer.issue(orders(MANY))
    worker = workers("w0")
    await until(lambda: worker.events("group_done"), "a first group")
    assert worker.stop() == 0
    (stopped,) = worker.events("stopped")
    depth = await trainer.depth()
    assert depth.groups_waiting == stopped["groups"] < MANY
    assert depth.tasks_queued + depth.tasks_leased == MANY - stopped["groups"]
    async with EnvironmentClient(stack.environment.url) as environments:
        sessions = await environments.open(64)  # all there are: the worker left none open
        await asyncio.gather(*(session.close() for session in sessions))


def run(*arguments: str) -> int:
    """A command, with the exit code and the messages of the process but without the start of one."""
    return exit_on_config_error(partial(main, list(arguments)))


def test_demonstrations_solve_their_rooms(stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demonstrations.msgpack"
    where = ("--config", str(stack.config), "--environment-url", stack.environment.url)
    assert run("demonstrate", *where, "--count", "60", "--out", str(out)) == 0
    said = capsys.readouterr()
    counts = json.loads(said.out)
    progress = [json.loads(line) for line in said.err.splitlines() if '"demonstrating"' in line]
    assert [(line["finished"], line["total"]) for line in (progress[0], progress[-1])] == [(0, 60), (60, 60)]
    groups = read_groups(out)
    assert len(groups) == counts["written"] > 5
    assert counts["asked"] == counts["written"] + counts["duplicates"]
    tokens = Tokens.load(stack.policy)
    for group in groups:
        (one,) = group.trajectories
        assert one.success
        assert one.total_reward == pytest.approx(11 - 0.1 * len(one.turns))
        for turn in one.turns:
            assert turn.format_valid
            assert turn.action_valid
            assert tokens.reply(turn.response) == turn.tokens().tolist()
            assert not (turn.tokens() == 1).any(), "a piece of the expert's reply is unknown to the tokenizer"


def test_held_out_rooms_are_not_demonstrated(stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "leak.msgpack"
    where = ("--config", str(stack.config), "--environment-url", stack.environment.url)
    assert run("demonstrate", *where, "--split", "test", "--count", "2", "--out", str(out)) == 2
    assert "expert_splits" in capsys.readouterr().err
    assert not out.exists()


def test_an_evaluation_set_is_played(stack: Stack, tmp_path: Path) -> None:
    out = tmp_path / "before.json"
    where = ("--config", str(stack.config), "--environment-url", stack.environment.url)
    flags = ("--inference-url", stack.inference.url, "--count", "24", "--max-tokens", "6", "--out", str(out))
    assert run("evaluate", *where, *flags) == 0
    result = json.loads(out.read_text())
    assert (result["episodes"], result["errors"], result["environment"]) == (24, 0, "sokoban")
    assert result["versions"]
    assert result["data"] is None  # Sokoban has no official rooms
    assert result["served"]["version"] == "rooms-1"
    assert result["served"]["template"].startswith("compact ")
    told = result | {"data": {"description": "rooms of a stand-in", "official": False}}
    assert describe(told) == describe(result) + "\n    rooms of a stand-in"
    assert sum(row["n"] for row in result["by_difficulty"]) == 24
    assert max(row["optimal_moves"] for row in result["by_difficulty"]) <= 8


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("worker", "--run-name", "r", "--redis-url", "redis://127.0.0.1:1/0"), 1, "no Redis at redis://127.0.0.1:1"),
        (("worker", "--run-name", "r", "--redis-url", "nonsense"), 1, "'nonsense' is not the URL of a Redis"),
        (("worker", "--run-name", "a b", "--redis-url", "redis://127.0.0.1:1/0"), 1, "run name 'a b'"),
        (("worker", "--run-name", "r", "--config", "/nowhere.toml"), 2, "/nowhere.toml: no such configuration file"),
        (("worker", "--run-name", "r", "--inference-url", "host:1"), 2, "'host:1' is not a service address"),
    ],
)
def test_errors_are_one_line(
    stack: Stack,
    capsys: pytest.CaptureFixture[str],
    redis_url: str,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    given = ("--tokenizer", str(stack.policy), *(() if "--redis-url" in arguments else ("--redis-url", redis_url)))
    assert run(*arguments, *given) == code
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_settings_are_checked_without_heavy_imports(stack: Stack, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "arlarena.rollout.settings", str(stack.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout) == (0, "ok\n")
    assert not any(name in done.stderr for name in ("transformers", "aiohttp", "torch"))
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[rollout]\nlease_tll_s = 3\n")
    done = subprocess.run(
        [sys.executable, "-m", "arlarena.rollout.settings", str(wrong)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "did you mean 'lease_ttl_s'" in done.stderr
