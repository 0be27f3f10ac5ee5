"""A damaged newest checkpoint is skipped with a warning. The run then has the same result as without damage."""

import json
import signal

import pytest
from support.trainer.trainer_processes_support import (
    ALONE_STEPS,
    assert_same_end,
    prepare,
    recorded,
    start_trainer,
    train_arguments,
    train_with_ends,
)


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(folder):
    file = folder / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-33] ^= 4
    file.write_bytes(data)


def empty_state(folder):
    (folder / "state.json").write_text("")


def lose_manifest(folder):
    (folder / "manifest.json").unlink()


DAMAGES = [truncate, flip_a_bit, empty_state, lose_manifest]


def committed(run):
    return sorted(marker.parent for marker in run.glob("checkpoints/step-*/COMMITTED"))


def events(run, name):
    lines = [json.loads(line) for line in (run / "log").read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


@pytest.mark.slow  # five trainers start, 9 s; test_checkpoints.py skips damaged checkpoints of each kind in one process
@pytest.mark.timeout(300)
async def test_a_damaged_newest_checkpoint_costs_only_its_steps(
    alone, redis_url, run_name, tmp_path, tiny_directory, make_group
):
    run, remaining, damaged = tmp_path / "run", list(DAMAGES), []
    prepare(run, ALONE_STEPS, checkpoint_every=2)

    def two_more():
        reached = int(damaged[-1].name[5:11]) if damaged else 0
        return len(committed(run)) > 1 and int(committed(run)[-1].name[5:11]) >= reached + 4

    def damage():
        damaged.append(committed(run)[-1])
        remaining.pop(0)(damaged[-1])

    ends = [(signal.SIGKILL, two_more, 0.0)] * len(DAMAGES)
    player = recorded(run, make_group)
    assert await train_with_ends(redis_url, run_name, run, tiny_directory, player, ends, damage) == len(DAMAGES)
    assert_same_end(run, alone, ALONE_STEPS)
    warnings = events(run, "checkpoint_damaged")
    assert [warning["damaged"] for warning in warnings] == [str(folder) for folder in damaged]
    for warning in warnings:
        assert warning["used"] < warning["damaged"]


async def test_a_run_with_only_damaged_checkpoints_is_refused(
    redis_url, run_name, tmp_path, tiny_directory, make_group
):
    run = tmp_path / "run"
    prepare(run, 2)
    await train_with_ends(redis_url, run_name, run, tiny_directory, recorded(run, make_group), [])
    for folder in committed(run):
        truncate(folder)
    _, ended = await start_trainer(train_arguments(run, run_name, tiny_directory, redis_url, "--resume"), run / "log")
    assert await ended == 4  # 4: the launcher does not restart the trainer
    (failed,) = events(run, "failed")
    assert "all checkpoints of the run are damaged" in failed["reason"]
    assert "model.safetensors has" in failed["reason"]


async def test_a_run_with_checkpoints_needs_resume(redis_url, run_name, tmp_path, tiny_directory, make_group):
    run = tmp_path / "run"
    prepare(run, 2)
    await train_with_ends(redis_url, run_name, run, tiny_directory, recorded(run, make_group), [])
    before = committed(run)
    _, ended = await start_trainer(train_arguments(run, run_name, tiny_directory, redis_url), run / "log")
    assert await ended == 4  # 4: the launcher does not restart the trainer
    assert "give --resume" in events(run, "failed")[0]["reason"]
    assert committed(run) == before
