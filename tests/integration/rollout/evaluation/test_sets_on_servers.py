"""Standard evaluation sets on real environment servers: equal digests everywhere, and refusals with their cause."""

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.evaluation import judged_guess
from support.processes import forking_support

from arlarena.proto.telemetry import Logger
from arlarena.rollout.evaluation import served
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.served import configured_process, connected_runner
from arlarena.rollout.evaluation.sets.standard import (
    CheckedSet,
    Pin,
    SetMismatch,
    StandardSet,
    check_set,
    environment_plan,
    find_set,
    play_set,
    published_pins,
)
from arlarena.rollout.settings import RolloutSettings

LOG = Logger("test", "error")
TESTS = Path(__file__).parents[3]
ROOMS = StandardSet("sokoban", "for the test", "test", 3, 12, options={"size": 6, "max_moves": 9}, name="rooms")
NUMBERS = StandardSet(judged_guess.NAME, "for the test", "test", 0, 4, needs="the file", given=("numbers",), name="n")


@asynccontextmanager
async def forked(config: Path, name: str, *, workers: int | None = None) -> AsyncIterator[str]:
    """`served.environment_process` without the imports of the server, which take more than a second."""
    arguments = ["--config", str(config), "--port", "0", *([] if workers is None else ["--workers", str(workers)])]
    with tempfile.TemporaryFile("w") as log:
        process = forking_support.popen(["arlarena.env_server", name, *arguments], stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        yield "http://127.0.0.1:{port}".format(**json.loads(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.fixture(autouse=True)
def _modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers find the environment of the tests."""
    monkeypatch.setattr(served, "environment_process", forked)
    monkeypatch.syspath_prepend(str(TESTS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))


async def found(standard: StandardSet, options: Mapping[str, Any], workers: int = 1, pins: Any = "play") -> CheckedSet:
    """Start a server, and play or check the set on it."""
    async with (
        configured_process(standard.environment, options, workers=workers) as url,
        connected_runner(url, RolloutSettings(), None, LOG) as runner,
    ):
        return await (play_set(runner, standard) if pins == "play" else check_set(runner, standard, pins))


async def test_two_servers_with_one_and_four_processes_give_the_same_digest() -> None:
    one, four = await asyncio.gather(found(ROOMS, ROOMS.options), found(ROOMS, ROOMS.options, workers=4))
    assert one.pin == four.pin
    assert one.keys == four.keys
    assert len(one.keys) == len(set(one.keys.values())) == 12


async def test_the_published_digest_of_a_set_is_the_one_that_a_server_plays() -> None:
    standard = find_set("guess-v1")
    checked = await found(standard, {}, pins=None)
    assert checked.pin == published_pins()["guess-v1"]
    plan = environment_plan(standard, checked, "http://127.0.0.1:1")
    assert (plan.set, plan.split, plan.indices) == ("guess-v1", "test", tuple(range(20)))
    assert plan.version == checked.info.version


async def test_free_options_do_not_change_the_set() -> None:
    """A policy that was trained with another template is evaluated on the same tasks."""
    first = await found(ROOMS, ROOMS.options)
    again = await found(
        ROOMS, {**ROOMS.options, "template": "compact", "observation": "grid+coordinates"}, pins=pins(first)
    )
    assert again.pin == first.pin


def pins(checked: CheckedSet, **changes: Any) -> dict[str, Pin]:
    pin = msgspec.structs.replace(checked.pin, **changes)
    return {"rooms": pin, "n": pin}


async def test_each_cause_of_a_refusal_is_named() -> None:
    async with (
        configured_process("sokoban", ROOMS.options) as url,
        connected_runner(url, RolloutSettings(), None, LOG) as runner,
    ):
        right = await play_set(runner, ROOMS)
        with pytest.raises(
            SetMismatch, match=r"other environment version: the server has sokoban rooms-1, but .* rooms-0"
        ):
            await check_set(runner, ROOMS, pins(right, version="rooms-0"))
        other = right.pin.options | {"max_moves": 8, "boxes": 2}
        with pytest.raises(SetMismatch, match="other options: boxes = 1 instead of 2; max_moves = 9 instead of 8"):
            await check_set(runner, ROOMS, pins(right, options=other))
        with pytest.raises(SetMismatch, match=r"other data.*digest of its 12 tasks"):
            await check_set(runner, ROOMS, pins(right, digest="0" * 32))
        with pytest.raises(EvaluationError, match="no published digest"):
            await check_set(runner, ROOMS, {})
        with pytest.raises(SetMismatch, match=r"is for guess, but .* plays sokoban"):
            await check_set(runner, find_set("guess-v1"))
        many = msgspec.structs.replace(ROOMS, count=5000)
        with pytest.raises(SetMismatch, match=r"other data.*at least 5,003 tasks, but the server has only 1,024 tasks"):
            await check_set(runner, many, pins(right))


async def test_other_files_of_official_data_are_refused(tmp_path: Path) -> None:
    """The paths of files differ between machines and are no option of the set. Their content decides."""
    one, copy, other = tmp_path / "one.txt", tmp_path / "copy.txt", tmp_path / "other.txt"
    one.write_text("3 50 97 12")
    copy.write_text("3 50 97 12")
    other.write_text("3 50 97 13")
    first = await found(NUMBERS, {"numbers": str(one)})
    assert (await found(NUMBERS, {"numbers": str(copy)}, pins=pins(first))).pin == first.pin
    with pytest.raises(SetMismatch, match=r"other data, needs the file: the digest of its 4 tasks"):
        await found(NUMBERS, {"numbers": str(other)}, pins=pins(first))
