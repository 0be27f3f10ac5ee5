"""A trainer process writes the reason for its end to training.json, and writes the progress of the current step."""

import asyncio
import json
import os
import signal

import pytest
from support.trainer.recordings_support import Recordings
from support.trainer.trainer_processes_support import prepare, start_trainer, steps_of, train_arguments

from arlarena.proto.streams.queue import Streams


@pytest.fixture
async def started(redis_url, run_name, tmp_path, tiny_directory, make_group):
    """Yield a function `(steps, **settings)` that starts a trainer.

    The function returns the run's directory, the trainer's pid, a future of the exit status, and a function that starts
    the worker.
    """
    run = tmp_path / "run"
    tasks = []
    async with await Streams.connect(redis_url, run_name, retry_delay_s=0.05) as streams:

        async def start(steps, **settings):
            prepare(run, steps, **settings)
            pid, ended = await start_trainer(train_arguments(run, run_name, tiny_directory, redis_url), run / "log")
            tasks.append(ended)
            player = Recordings(streams, run / "weights", make_group)
            return run, pid, ended, lambda: tasks.append(asyncio.create_task(player.serve()))

        yield start
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition, ended, run):
    async with asyncio.timeout(60):
        while not condition():
            assert not ended.done(), (run / "log").read_text()[-2000:]
            await asyncio.sleep(0.02)


def ending(run):
    return json.loads((run / "training.json").read_text())


@pytest.mark.parametrize(
    ("steps", "settings", "expected"),
    [
        (1, {}, {"ended_by": "steps", "step": 1, "steps": 1, "limit": None}),
        (500, {"max_minutes": 1e-6}, {"ended_by": "max_minutes", "step": 1, "steps": 500, "limit": 1e-6}),
        (500, {"max_environment_steps": 1}, {"ended_by": "max_environment_steps", "step": 1, "steps": 500, "limit": 1}),
    ],
)
async def test_a_finished_trainer_records_the_limit_that_ended_it(started, steps, settings, expected):
    run, _, ended, play = await started(steps, **settings)
    play()
    async with asyncio.timeout(60):
        assert await ended == 0, (run / "log").read_text()[-2000:]
    result = ending(run)
    assert {key: result[key] for key in expected} == expected


async def test_a_trainer_records_its_first_step_and_the_signal_that_ends_it(started):
    run, pid, ended, play = await started(500)
    step = run / "progress" / "train-step.json"
    await until(step.exists, ended, run)
    result = json.loads(step.read_text())
    assert {key: result[key] for key in ("step", "doing", "groups", "groups_wanted", "episodes")} == {
        "step": 1, "doing": "collecting", "groups": 0, "groups_wanted": 4, "episodes": 0,
    }  # fmt: skip
    first = result["ts"]
    await until(
        lambda: json.loads(step.read_text())["ts"] > first, ended, run
    )  # still running, although no group arrives
    assert json.loads(step.read_text())["began"] == result["began"]
    play()
    await until(lambda: steps_of(run) >= 2, ended, run)
    os.kill(pid, signal.SIGTERM)
    async with asyncio.timeout(60):
        assert await ended == 128 + signal.SIGTERM
    assert ending(run) == {
        "schema": 1, "ended_by": "signal", "step": steps_of(run), "steps": 500, "limit": None, "detail": "SIGTERM",
    }  # fmt: skip


async def test_a_running_trainer_has_no_ending_and_an_error_is_recorded(started):
    run, _, ended, _ = await started(5, no_data_timeout_s=1.0, reissue_after_s=0.5)
    async with asyncio.timeout(60):
        assert await ended == 1, (run / "log").read_text()[-2000:]  # 1: a restart may succeed
    result = ending(run)
    assert (result["ended_by"], result["step"]) == ("error", 0)
    assert "no group arrived" in result["detail"]
