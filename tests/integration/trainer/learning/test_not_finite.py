"""A trainer with NaN or infinity applies no update, saves and pushes no weights, and ends with the reason."""

import asyncio
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.trainer.recordings_support import Recordings
from support.trainer.trainer_processes_support import prepare, records, start_trainer, train_arguments

from arlarena.proto.streams.queue import Streams


def strict(line):
    """Parse strict JSON, which has no NaN and no infinity."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(line, parse_constant=refuse)


def everything_on_disk_is_finite(run):
    files = [*run.glob("checkpoints/step-*/*.safetensors"), *run.glob("weights/v*/*.safetensors")]
    for file in files:
        assert all(torch.isfinite(value).all() for value in load_file(file).values()), file
    return files


def corrupt(policy, copy):
    """Write a copy of the folder `policy` to the folder `copy`, with one weight that is NaN."""
    shutil.copytree(policy, copy)
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
async def failed_run(redis_url, run_name, tmp_path, make_group):
    """Return a function `(policy, **settings)` that starts a run, which must fail.

    The function returns the run's directory, the reason of the failure, and the lines of the log.
    """
    run = tmp_path / "run"
    async with await Streams.connect(redis_url, run_name, retry_delay_s=0.05) as streams:
        feeding = asyncio.create_task(Recordings(streams, run / "weights", make_group).serve())

        async def start(policy, **settings):
            prepare(run, 12, **settings)
            _, ended = await start_trainer(train_arguments(run, run_name, policy, redis_url), run / "log")
            status = await ended  # 4: a permanent error
            assert status == 4, (run / "log").read_text()[-3000:]
            lines = [strict(line) for line in (run / "log").read_text().splitlines() if line.startswith("{")]
            (reason,) = [line["reason"] for line in lines if line["event"] == "failed"]
            return run, reason, lines

        yield start
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


# Slow: a trainer starts, 16 s. The quick tests are in tests/numerics/trainer/test_updates_not_finite.py.
@pytest.mark.slow
async def test_a_policy_with_nan_is_not_pushed(failed_run, tiny_directory, tmp_path):
    invalid = tmp_path / "spoilt"
    corrupt(tiny_directory, invalid)
    run, reason, _ = await failed_run(invalid)
    assert "model.norm.weight is not finite at step 0" in reason
    assert everything_on_disk_is_finite(run) == []


async def test_non_finite_cloning_ends_with_a_permanent_error(tiny_directory, tmp_path):
    invalid, talk, config = tmp_path / "spoilt", tmp_path / "talk.jsonl", tmp_path / "run.toml"
    corrupt(tiny_directory, invalid)
    talk.write_text('{"messages": [{"role": "user", "content": "up"}, {"role": "assistant", "content": "down"}]}\n')
    config.write_text("[clone]\nbatch_rows = 1\n")
    arguments = ("clone", "--config", config, "--model", invalid, "--demonstrations", talk, "--validation", talk)
    _, ended = await start_trainer([*arguments, "--run-dir", tmp_path, "--out", tmp_path / "out"], tmp_path / "log")
    async with asyncio.timeout(60):
        status = await ended
    assert status == 4, (tmp_path / "log").read_text()[-2000:]
    assert "error: cloning: loss is nan at step 1: lower [clone] lr" in (tmp_path / "log").read_text()


async def test_infinite_weights_are_neither_saved_nor_pushed(failed_run, tiny_directory):
    run, reason, lines = await failed_run(tiny_directory, lr=3.3e37, weight_decay=10.0)
    assert "is not finite at step 1" in reason
    assert "lower [trainer] lr" in reason
    files = everything_on_disk_is_finite(run)
    assert {file.parent.name.split("-")[0] for file in files} == {"step", "v000000"}
    assert any(line["event"] == "not_saved" for line in lines)


async def test_repeated_non_finite_steps_end_the_run_and_name_their_groups(failed_run, tiny_directory):
    # One step of this size gives finite weights that overflow in the next forward pass.
    run, reason, lines = await failed_run(tiny_directory, lr=1e30, weight_decay=0.0, max_skipped_steps=2)
    assert "2 steps in a row without a finite loss and gradient" in reason
    last = records(run)[-1]
    trained = set(range(4 * (last["step"] - 1), 4 * last["step"]))
    assert all(f"g{index:06d}" in reason for index in trained)
    skipped = [line for line in lines if line["event"] == "updates_skipped"]
    assert len(skipped) >= 2  # if the first step applies an update, a third step is needed
    for line in (run / "metrics.jsonl").read_text().splitlines():
        strict(line)
    assert last["total_skipped"] in (8, 10)
    everything_on_disk_is_finite(run)
