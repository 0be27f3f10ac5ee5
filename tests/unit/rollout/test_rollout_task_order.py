"""Which tasks are demonstrated and which seeds an episode samples with, by the run's seed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.rollout.rollout_support import Corridor, House, command

from arlarena.proto.config import ConfigError
from arlarena.proto.task_order import TaskOrder
from arlarena.proto.trajectory import GroupTask, Sampling, Task, read_groups
from arlarena.rollout.policies import EnginePolicy
from arlarena.rollout.settings import load_seed
from arlarena.rollout.tokens import Tokens
from arlarena.rollout.worker import play_group

KINDS, PER_KIND = 6, 20


class SortedByKind(Corridor):
    """As official data are laid out: tasks of one kind stand together."""

    def reset(self, walk: Any, item: dict[str, Any]) -> dict[str, Any]:
        answer = super().reset(walk, item)
        answer["metadata"]["kind"] = f"kind {item['index'] // PER_KIND}"
        return answer


async def demonstrated(house: House, policy_directory: Path, out: Path, *flags: str, **tables: str) -> list[int]:
    """Indices of the recorded tasks, in the order of the file."""
    assert await command(house, policy_directory, "demonstrate", "--out", str(out), *flags, **tables) == 0
    return [group.task.index for group in read_groups(out)]


async def test_few_demonstrations_of_a_split_sorted_by_kind_have_all_kinds(
    house: House, policy_directory: Path, tmp_path: Path
) -> None:
    house.corridor.__class__ = SortedByKind
    house.corridor.size = KINDS * PER_KIND
    order = TaskOrder("train", KINDS * PER_KIND, 0)
    indices = await demonstrated(house, policy_directory, tmp_path / "x", "--count", "36", "--concurrency", "7")
    assert indices == [order.index(position) for position in range(36)]
    kinds = Counter(index // PER_KIND for index in indices)
    assert set(kinds) == set(range(KINDS))
    assert max(kinds.values()) < 18


async def test_the_order_follows_the_runs_seed(
    house: House, policy_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.corridor.size = 50
    monkeypatch.delenv("ARLARENA_SEED", raising=False)

    async def first(*flags: str) -> list[int]:
        return await demonstrated(house, policy_directory, tmp_path / "x", "--count", "10", *flags, run="seed = 3")

    def drawn(seed: int, positions: range = range(10)) -> list[int]:
        return [TaskOrder("train", 50, seed).index(position) for position in positions]

    assert await first() == drawn(3)
    monkeypatch.setenv("ARLARENA_SEED", "4")
    assert await first() == drawn(4)
    assert await first("--seed", "5") == drawn(5)
    assert await first("--seed", "5", "--first", "10") == drawn(5, range(10, 20))


async def test_a_split_without_an_end_is_demonstrated_by_index_whatever_the_seed(
    house: House, policy_directory: Path, tmp_path: Path
) -> None:
    flags = ("--first", "4", "--count", "3")
    assert await demonstrated(house, policy_directory, tmp_path / "x", *flags, "--seed", "7") == [4, 5, 6]


async def test_more_tasks_than_the_split_has_are_played_once_each_with_a_warning(
    house: House, policy_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house.corridor.size = 12
    indices = await demonstrated(house, policy_directory, tmp_path / "x", "--count", "40")
    assert sorted(indices) == list(range(12))
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (warning,) = [event for event in events if event["level"] == "warning"]
    assert (warning["event"], warning["split"]) == ("fewer_tasks_than_asked", "train")
    assert (warning["size"], warning["asked"], warning["played"]) == (12, 40, 12)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--split", "tset"), "--split = 'tset': corridor has no such split; known: train, validation, test"),
        (("--first", "12"), "--first 12: split 'train' has 12 tasks"),
    ],
)
async def test_demonstrations_of_tasks_that_do_not_exist_are_refused(
    house: House, policy_directory: Path, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    house.corridor.size = 12
    with pytest.raises(ConfigError, match=message):
        await command(house, policy_directory, "demonstrate", "--count", "2", "--out", str(tmp_path / "x"), *flags)
    assert not house.corridor.sessions


def test_a_seed_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARLARENA_SEED", "three")
    with pytest.raises(ConfigError, match="the variable ARLARENA_SEED = 'three'"):
        load_seed(None)


async def test_groups_of_two_seeds_share_no_sampling_seed_and_siblings_share_a_session(
    house: House, tokens: Tokens
) -> None:
    async def sampled(seed: int) -> tuple[set[int], set[str | None]]:
        house.mouth.requests.clear()
        house.mouth.sessions.clear()
        order = GroupTask("g000001", Task("corridor", "train", 7, seed=seed), 3, Sampling(max_tokens=64))
        await play_group(house.runner, EnginePolicy(house.inference, tokens, order.sampling, 512), order, "w0")
        seeds = {request["sampling_params"]["seed"] for request in house.mouth.requests}
        assert len(seeds) == len(house.mouth.requests) == 9
        return seeds, set(house.mouth.sessions)

    first, session = await sampled(0)
    again, same_session = await sampled(0)
    other, other_session = await sampled(1)
    assert first == again
    assert not first & other
    assert len(session) == 1
    assert session == same_session != other_session
