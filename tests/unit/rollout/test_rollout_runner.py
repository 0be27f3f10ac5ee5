"""Services that fail, hang, forget or are full: the episode is played again, and nothing of the failure is scored."""

import asyncio
from typing import Any

import pytest

from arlarena.client.errors import Refused
from arlarena.proto.trajectory import GroupTask, Sampling, Task
from arlarena.rollout.episode import Assignment
from arlarena.rollout.play_all import play_all
from arlarena.rollout.policies import EnginePolicy
from arlarena.rollout.runner import InfraFailure, Runner, ServicesDown, SessionSlot
from arlarena.rollout.tokens import Tokens
from arlarena.rollout.worker import play_group, version_range

ORDER = GroupTask("g1", Task("corridor", "train", 7), 4, Sampling(max_tokens=64))


@pytest.fixture
def player(house: Any, tokens: Tokens) -> EnginePolicy:
    return EnginePolicy(house.inference, tokens, ORDER.sampling, 512)


def assignment(index: int) -> Assignment:
    return Assignment(f"a{index}", Task("corridor", "train", index), f"k/{index}")


async def test_a_group_is_complete_and_its_sessions_are_closed(house: Any, player: EnginePolicy) -> None:
    group = await play_group(house.runner, player, ORDER, "w0")
    assert [one.id for one in group.trajectories] == ["g1-0", "g1-1", "g1-2", "g1-3"]
    assert all(one.success for one in group.trajectories)
    assert (str(group.oldest), str(group.newest), group.retries, group.worker) == ("run:3:abc", "run:3:abc", 0, "w0")
    assert house.corridor.sessions == {}
    seeds = [request["sampling_params"]["seed"] for request in house.mouth.requests]
    assert len(set(seeds)) == len(seeds) == 12


async def test_the_calls_of_a_group_share_requests(house: Any, player: EnginePolicy) -> None:
    await play_group(house.runner, player, ORDER, "w0")
    # 4 resets + 12 steps + 4 closes; without sharing there would be 20 requests.
    assert sum(house.corridor.batches) == 20
    assert len(house.corridor.batches) <= 10


async def test_versions_of_a_group_span_a_push(house: Any, player: EnginePolicy) -> None:
    steps = iter([f"run:{step}:d{step}" for step in (4, 9, 5, 10, 10, 10, 10, 10, 10, 10, 10, 10)])

    def relabel(choice: dict[str, Any]) -> None:
        choice["weight_versions"][0]["version"] = next(steps)

    house.mouth.spoil = relabel
    group = await play_group(house.runner, player, ORDER, "w0")
    # By step, not by text: as text "10" comes before "4".
    assert (group.oldest.step, group.newest.step) == (4, 10)
    assert version_range(group.trajectories) == (group.oldest, group.newest)


@pytest.mark.parametrize("fault", [500, 502, 503, 429, 2.0])
async def test_a_failing_inference_server_is_tried_again(house: Any, player: EnginePolicy, fault: int | float) -> None:
    house.mouth.faults = [fault]
    group = await play_group(house.runner, player, ORDER, "w0")
    assert all(one.success and len(one.turns) == 3 for one in group.trajectories)
    assert group.retries == 1
    assert [line["event"] for line in house.log] == ["episode_restarts"]


@pytest.mark.parametrize("fault", [500, 2.0])
async def test_a_failing_environment_server_is_tried_again(
    house: Any, player: EnginePolicy, fault: int | float
) -> None:
    house.corridor.faults = [0.0, fault]
    group = await play_group(house.runner, player, ORDER, "w0")
    assert all(one.success and len(one.turns) == 3 for one in group.trajectories)
    assert group.retries == 4


async def test_sessions_that_the_server_forgot_are_played_again(house: Any, player: EnginePolicy) -> None:
    seen = 0

    def forget_once() -> None:
        nonlocal seen
        seen += 1
        if seen == 6:
            house.corridor.sessions.clear()

    house.corridor.on_step = forget_once
    group = await play_group(house.runner, player, ORDER, "w0")
    assert group.retries >= 1
    assert all(one.success and one.total_reward == pytest.approx(0.7) for one in group.trajectories)


@pytest.mark.parametrize("spoil", ["logprobs", "ids", "spans", "abort"])
async def test_an_answer_that_contradicts_itself_never_becomes_a_turn(
    house: Any, player: EnginePolicy, spoil: str
) -> None:
    first = True

    def once(choice: dict[str, Any]) -> None:
        nonlocal first
        if first:
            first = False
            match spoil:
                case "logprobs":
                    choice["logprobs"]["content"].pop()
                case "ids":
                    choice["token_ids"].append(1)
                case "spans":
                    choice["weight_versions"][0]["end"] -= 1
                case _:
                    choice["finish_reason"] = "abort"

    house.mouth.spoil = once
    group = await play_group(house.runner, player, ORDER, "w0")
    assert group.retries == 1
    assert all(one.success for one in group.trajectories)


async def test_after_too_many_failures_the_group_is_given_up(house: Any, player: EnginePolicy) -> None:
    house.mouth.faults = [500] * 100
    settings = house.settings.model_copy(update={"episode_retries": 1})
    runner = Runner(house.environments, house.inference, settings, house.runner.log)
    with pytest.raises(InfraFailure, match=r"failed 2 times; last: .*500"):
        await play_group(runner, player, ORDER, "w0")
    assert house.corridor.sessions == {}


async def test_a_full_server_is_waited_for(house: Any, player: EnginePolicy) -> None:
    house.corridor.capacity = 4
    first, second = await asyncio.gather(
        play_group(house.runner, player, ORDER, "w0"), play_group(house.runner, player, ORDER, "w0")
    )
    assert first.size == second.size == 4


async def test_a_server_that_stays_full_is_named(house: Any, player: EnginePolicy) -> None:
    house.corridor.capacity = 3
    settings = house.settings.model_copy(update={"service_retry_timeout_s": 0.5})
    runner = Runner(house.environments, house.inference, settings, house.runner.log)
    with pytest.raises(ServicesDown, match=r"4 sessions could not be opened within 0\.5 s: .*full"):
        await play_group(runner, player, ORDER, "w0")


async def test_a_refusal_is_not_repeated(house: Any, player: EnginePolicy) -> None:
    house.corridor.size = 5
    with pytest.raises(Refused, match="unknown_task"):
        await house.runner.episode(SessionSlot(), assignment(5), player)
    assert house.log == []


async def test_an_evaluation_set_is_played_with_fewer_seats_than_tasks(house: Any, player: EnginePolicy) -> None:
    house.corridor.capacity = 5
    finished: list[tuple[int, int]] = []
    played = await play_all(
        house.runner,
        [assignment(i) for i in range(23)],
        player,
        concurrency=16,
        progress=lambda done, total: finished.append((done, total)),
    )
    assert sorted(played.episodes) == list(range(23))
    assert [e.trajectory.id for _, e in sorted(played.episodes.items())] == [f"a{i}" for i in range(23)]
    assert played.errors == {}
    assert finished[-1] == (23, 23)
    assert house.corridor.sessions == {}


async def test_an_evaluation_counts_what_failed_and_does_not_score_it(house: Any, player: EnginePolicy) -> None:
    settings = house.settings.model_copy(update={"episode_retries": 0})
    runner = Runner(house.environments, house.inference, settings, house.runner.log)
    house.mouth.faults = [500, 500]
    played = await play_all(runner, [assignment(i) for i in range(6)], player, concurrency=3)
    assert len(played.errors) == 2
    assert len(played.episodes) == 4
    assert all(episode.trajectory.success for episode in played.episodes.values())
