"""A run warns if its gradient is exactly 0 for `zero_gradient_alarm` consecutive steps."""

import asyncio
import json

import pytest
from support.trainer.recordings_support import Recordings
from support.trainer.trainer_processes_support import prepare, records, start_trainer, train_arguments

from arlarena.proto.streams.queue import Streams
from arlarena.trainer.metrics.step_alarms import zero_gradient_reason
from arlarena.trainer.settings import TrainerSettings


class Failures(Recordings):
    """All members of every group fail, with equal rewards."""

    def recorded(self, task, version):
        group = super().recorded(task, version)
        for trajectory in group.trajectories:
            trajectory.success = False
            for turn in trajectory.turns:
                turn.reward = -0.1
        return group


class PenalisedFailures(Failures):
    """All members of every group fail, with equal rewards. One action of each group is invalid."""

    def recorded(self, task, version):
        group = super().recorded(task, version)
        group.trajectories[0].turns[0].action_valid = False
        return group


async def warnings_of(
    redis_url, run_name, run, policy, make_group, *, played=Recordings, event="zero_gradient", **settings
):
    prepare(run, 5, lr=1e-4, **settings)
    async with await Streams.connect(redis_url, run_name, retry_delay_s=0.05) as streams:
        feeding = asyncio.create_task(played(streams, run / "weights", make_group).serve())
        _, ended = await start_trainer(train_arguments(run, run_name, policy, redis_url), run / "log")
        assert await ended == 0, (run / "log").read_text()[-3000:]
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    lines = [json.loads(line) for line in (run / "log").read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


# Slow: a trainer runs for several steps, 16 s.
@pytest.mark.slow
async def test_a_gradient_of_zero_is_counted_and_warned_about(
    redis_url, run_name, tmp_path, tiny_directory, make_group
):
    dead = {"advantage_scale": 0.0, "kl_coefficient": 0.0, "entropy_coefficient": 0.0, "zero_gradient_alarm": 2}
    run = tmp_path / "run"
    result = await warnings_of(redis_url, run_name, run, tiny_directory, make_group, **dead)
    assert [(line["level"], line["step"], line["steps"]) for line in result] == [("warning", 2, 2), ("warning", 4, 4)]
    assert "advantage_scale = 0" in result[0]["reason"]
    assert [record["zero_gradient_steps"] for record in records(run)] == [1, 2, 3, 4, 5]
    assert {record["grad_norm"] for record in records(run)} == {0}


QUIET = {"kl_coefficient": 0.0, "entropy_coefficient": 0.0, "zero_gradient_alarm": 2}


async def test_groups_that_all_fail_give_a_gradient_of_exactly_zero(
    redis_url, run_name, tmp_path, tiny_directory, make_group
):
    run = tmp_path / "run"
    result = await warnings_of(redis_url, run_name, run, tiny_directory, make_group, played=Failures, **QUIET)
    assert [line["steps"] for line in result] == [2, 4]
    assert {(record["grad_norm"], record["advantage_abs"]) for record in records(run)} == {(0, 0)}


async def test_uniform_returns_give_a_warning_although_penalties_give_a_gradient(
    redis_url, run_name, tmp_path, tiny_directory, make_group
):
    run, uniform = tmp_path / "run", {"played": PenalisedFailures, "event": "uniform_groups"}
    result = await warnings_of(redis_url, run_name, run, tiny_directory, make_group, **uniform, **QUIET)
    assert [(line["step"], line["steps"]) for line in result] == [(2, 2), (4, 4)]
    assert "in every group all members have equal returns" in result[0]["reason"]
    assert all(record["grad_norm"] > 0 for record in records(run))


async def test_a_run_with_gradients_does_not_warn(redis_url, run_name, tmp_path, tiny_directory, make_group):
    run = tmp_path / "run"
    assert await warnings_of(redis_url, run_name, run, tiny_directory, make_group, zero_gradient_alarm=1) == []
    assert "uniform_groups" not in (run / "log").read_text()
    assert {record["zero_gradient_steps"] for record in records(run)} == {0}


def test_the_reason_for_a_zero_gradient_follows_from_the_metrics():
    settings = TrainerSettings(recipe="grpo")
    figures = {"rows": 8.0, "solve_all": 0.25, "solve_none": 0.75, "advantage_abs": 0.0, "learning_rate": 1e-6}
    reason = zero_gradient_reason(figures, settings)
    for part in ("in 100% of the groups", "group_size = 8", "recipe = 'grpo'", "filter"):
        assert part in reason
    assert "learning rate" not in reason
    assert "groups_filtered" in zero_gradient_reason({}, settings)
    assert "learning rate is also 0" in zero_gradient_reason(figures | {"learning_rate": 0.0}, settings)
    assert "arlarena replay" in zero_gradient_reason(
        {"rows": 8.0, "advantage_abs": 0.5, "learning_rate": 1e-6}, settings
    )
