"""Episodes on the official OpenEnv server, in its own process and Python environment."""

import asyncio
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.evaluation.command_support import ended
from support.evaluation.imitation import Imitation, serve
from support.evaluation.sdks import needs_sdk
from support.openenv.number_game import bisect

from arlarena.client.errors import AtCapacity, Refused
from arlarena.client.transport import Timeouts
from arlarena.rollout.evaluation.errors import AttemptFailed
from arlarena.rollout.evaluation.models.protocol import ModelMessage
from arlarena.rollout.evaluation.openenv.client import OpenEnvClient
from arlarena.rollout.evaluation.openenv.description import detect
from arlarena.rollout.evaluation.openenv.rules import SEEDS, OpenEnvSettings
from arlarena.rollout.evaluation.play.journal import JOURNAL, read_journal
from arlarena.rollout.evaluation.records import AttemptRecord, ReplyEvent

ROOT = Path(__file__).resolve().parents[4]
PYTHON = ROOT / ".venv-openenv" / "bin" / "python"
SERVER = ROOT / "tests" / "support" / "openenv" / "openenv_server.py"
QUICK = Timeouts(5.0, 10.0)

pytestmark = [
    pytest.mark.skipif(not PYTHON.exists(), reason="OPENENV IS NOT INSTALLED: `make setup EXTRA=openenv` installs it"),
    # Slow: the package takes up to ten seconds to import. The same behaviour is in test_evaluation_openenv.py and
    # test_evaluation_openenv_command.py.
    pytest.mark.slow,
    pytest.mark.processes,
]


@contextmanager
def official_server(log: Path, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the server. Yield its address and its process."""
    with log.open("a") as errors:
        process = subprocess.Popen(
            [PYTHON, SERVER, "--port", str(port)], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        yield f"http://127.0.0.1:{json.loads(line)['port']}", process
    finally:
        process.kill()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with official_server(tmp_path_factory.mktemp("openenv") / "stderr.log") as (url, _):
        yield url


async def guess(client: OpenEnvClient, split: str, index: int) -> tuple[int | None, list[str]]:
    """Guess 3, 5 and 4 until the end. Return the number of the right guess, or None, and the state keys."""
    (session,) = await client.open(1)
    state = await session.reset(split=split, index=index, seed=0, episode_id="from us")
    keys, right = [state.metadata.state_key], None
    for number in (3, 5, 4):
        state = await session.step(f"<think>perhaps {number}</think>{number}")
        keys.append(state.metadata.state_key)
        if state.done:
            right = number if state.metadata.success else None
            break
    await session.close()
    assert state.done
    return right, keys


async def test_seeds_and_tasks_reach_the_environment_and_repeat(base: str) -> None:
    assert await detect(f"{base}/number") == "openenv"
    async with OpenEnvClient(f"{base}/number", timeouts=QUICK) as client:
        info = await client.info()
        assert (info.name, info.version.split("+")[0], info.options["action_field"]) == ("number", "3.1", "answer")
        splits = [(split.name, split.size, split.evaluation) for split in info.splits]
        assert splits == [(SEEDS, None, False), ("train", 3, False), ("validation", 4, True)]
        results = await asyncio.gather(*(guess(client, SEEDS, index) for index in range(8)))
        assert [right for right, _ in results] == [None, None, None, 3, 4, 5, None, None]
        assert await guess(client, SEEDS, 4) == results[4]
        tasks = await asyncio.gather(*(guess(client, "validation", index) for index in range(3)))
        assert [right for right, _ in tasks] == [None, None, 4]  # the tasks are the numbers 0, 2 and 4


async def test_json_objects_are_actions_and_invalid_ones_are_reported_to_the_model(base: str) -> None:
    async with OpenEnvClient(f"{base}/grid", OpenEnvSettings(max_steps=5), QUICK) as client:
        (session,) = await client.open(1)
        state = await session.reset(split=SEEDS, index=0, seed=0)
        assert state.observation.message
        assert '"row"' in state.observation.message
        assert state.observation.text == '{"marks": []}'
        state = await session.step('{"row": 1, "column": 1}')
        assert (state.observation.text, state.done, state.reward) == ('{"marks": [[1, 1]]}', False, 0.0)
        state = await session.step('{"row": "first", "cell": 5}')
        assert not state.observation.action_valid
        assert all(word in (state.observation.message or "") for word in ("row", "column"))
        state = await session.step('My choice:\n```json\n{"row": 1, "column": 2}\n```')
        assert (state.done, state.metadata.success, state.reward, state.metadata.score) == (True, True, 2.5, 1.0)
        assert [split.name for split in (await client.info()).splits] == [SEEDS]
        await session.close()


async def test_a_server_with_one_session_is_at_capacity_until_it_ends(base: str) -> None:
    async with OpenEnvClient(f"{base}/single", timeouts=QUICK) as client:
        (session,) = await client.open(1)
        with pytest.raises(AtCapacity, match="CAPACITY_REACHED"):
            await client.open(1)
        await session.close()
        for _ in range(100):
            try:
                (session,) = await client.open(1)
                break
            except AtCapacity:
                await asyncio.sleep(0.05)
        await session.reset(split=SEEDS, index=0, seed=0)
        await session.close()


async def test_a_reward_that_is_not_a_number_is_an_error(base: str) -> None:
    async with OpenEnvClient(f"{base}/faulty", timeouts=QUICK) as client:
        (session,) = await client.open(1)
        await session.reset(split=SEEDS, index=0, seed=0)
        with pytest.raises(AttemptFailed, match="reward is null or not finite"):
            await session.step("1")
        await session.close()


@pytest.mark.parametrize("reply", ["no number", "unreportable"])
async def test_a_reply_that_makes_the_environment_fail_is_refused(base: str, reply: str) -> None:
    async with OpenEnvClient(f"{base}/number", timeouts=QUICK) as client:
        (session,) = await client.open(1)
        await session.reset(split=SEEDS, index=0, seed=0)
        with pytest.raises(Refused):
            await session.step(reply)
        await session.close()


async def test_a_session_survives_pings_while_the_model_thinks(base: str) -> None:
    async with OpenEnvClient(f"{base}/number", timeouts=QUICK) as client:
        (session,) = await client.open(1)
        await session.reset(split=SEEDS, index=3, seed=0)
        await asyncio.sleep(2)  # the server pings every 0.5 s and waits 0.5 s for the pong
        assert (await session.step("3")).metadata.success
        await session.close()


async def test_the_command_evaluates_a_model_and_resumes(base: str, tmp_path: Path) -> None:
    needs_sdk("openai")
    async with serve(Imitation("openai", script=bisect)) as model:
        arguments = ("m", "--base-url", model.url, "--env", f"{base}/number", "--attempts", 2, "--out", tmp_path)
        code, shown, error = await ended(*arguments)
        assert (code, error) == (0, ""), error
        assert "75.0" in shown  # the numbers 0, 2, 4 and 6 of the split `validation`; `bisect` does not find 0
        requests = model.counts.requests
        assert (await ended(*arguments))[0] == 0
        assert model.counts.requests == requests
    (plan,) = json.loads((tmp_path / "plan.json").read_text())["environments"]
    assert (plan["name"], plan["split"], plan["indices"]) == ("number", "validation", [0, 1, 2, 3])


async def test_the_command_evaluates_calls_of_tools(base: str, tmp_path: Path) -> None:
    needs_sdk("openai")

    def submit(messages: Sequence[ModelMessage]) -> str:
        first = messages[0].text
        assert '"name": "submit"' in first
        number = re.findall(r"Submit the number (\d+)", first)[-1]
        return json.dumps({"tool_name": "submit", "arguments": {"number": int(number) % 3}})

    async with serve(Imitation("openai", script=submit)) as model:
        settings = ("--openenv", "text_field=metadata.prompt", "--openenv", "max_steps=2", "--count", 5)
        arguments = ("m", "--base-url", model.url, "--env", f"{base}/tools", *settings, "--out", tmp_path)
        code, _, error = await ended(*arguments)
        assert (code, error) == (0, ""), error
        assert "0 is submitted" in model.last.messages[-1].text or "1 is submitted" in model.last.messages[-1].text
    done = {record.key.index: record.success for record in attempts(tmp_path)}
    assert done == {0: True, 1: True, 2: True, 3: False, 4: False}


async def test_a_killed_server_that_returns_costs_no_reply(tmp_path: Path) -> None:
    needs_sdk("openai")
    log = tmp_path / "stderr.log"
    async with serve(Imitation("openai", script=bisect, delay_s=0.05)) as model:
        with official_server(log) as (url, process):
            settings = ("--split", "seeds", "--count", 8, "--attempts", 3, "--concurrency", 2)
            arguments = ("m", "--base-url", model.url, "--env", f"{url}/number", *settings, "--out", tmp_path / "out")
            running = asyncio.ensure_future(ended(*arguments))
            async with asyncio.timeout(60):
                while model.counts.requests < 6:
                    await asyncio.sleep(0.01)
            process.kill()
        with official_server(log, int(url.rpartition(":")[2])):
            code, _, error = await running
    assert code == 0, error
    found = Counter((record.key.index, record.success) for record in attempts(tmp_path / "out"))
    assert found == Counter({(0, False): 3} | {(number, True): 3 for number in range(1, 8)})
    replies = [event for event in read_journal(tmp_path / "out" / JOURNAL) if isinstance(event, ReplyEvent)]
    assert len(replies) == model.counts.requests


def attempts(directory: Path) -> list[AttemptRecord]:
    return [event for event in read_journal(directory / JOURNAL) if isinstance(event, AttemptRecord)]
