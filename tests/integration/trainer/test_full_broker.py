"""If the memory of the broker is full, the run is delayed, but loses no data."""

import asyncio

import pytest
from redis import Redis
from support.trainer.trainer_processes_support import (
    ALONE_STEPS,
    assert_same_end,
    prepare,
    recorded,
    state_of,
    steps_of,
    train_with_ends,
)

# Memory for the groups of about ten steps.
ROOM_BYTES = 150_000


async def full_for(redis, seconds, limit):
    """Make the broker refuse all writes for `seconds`."""
    redis.config_set("maxmemory", limit)
    try:
        with pytest.raises(Exception, match=r"OOM|used memory"):
            redis.set("filler", "x")
        await asyncio.sleep(seconds)
    finally:
        redis.config_set("maxmemory", 0)


# Slow: one case fills the broker for a minute.
@pytest.mark.parametrize("seconds", [1, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.timeout(300)
async def test_a_run_continues_after_a_broker_refused_all_writes(
    alone, broker, run_name, tmp_path, tiny_directory, make_group, seconds
):
    run = tmp_path / "run"
    prepare(run, ALONE_STEPS, checkpoint_every=3)
    redis = Redis.from_url(broker.url)

    async def fill():
        while steps_of(run) < 5:
            await asyncio.sleep(0.01)
        await full_for(redis, seconds, 1)

    filling = asyncio.create_task(fill())
    await train_with_ends(broker.url, run_name, run, tiny_directory, recorded(run, make_group), [])
    await filling
    redis.close()
    assert_same_end(run, alone, ALONE_STEPS)


@pytest.mark.timeout(300)
@pytest.mark.slow  # starts a broker and a trainer
async def test_an_early_checkpoint_frees_the_memory_of_a_full_broker(
    broker, run_name, tmp_path, tiny_directory, make_group
):
    """The broker has memory for the groups of about ten steps. Only an early checkpoint frees this memory."""
    run, steps = tmp_path / "run", 40
    prepare(run, steps, checkpoint_every=1000)
    redis = Redis.from_url(broker.url)

    async def limit():
        while steps_of(run) < 1:
            await asyncio.sleep(0.01)
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] + ROOM_BYTES)

    limiting = asyncio.create_task(limit())
    await train_with_ends(broker.url, run_name, run, tiny_directory, recorded(run, make_group), [])
    await limiting
    assert redis.info("stats")["total_error_replies"] > 0
    redis.close()
    assert len(saved_steps(run)) > 0
    ledger = state_of(run, steps)["ledger"]
    assert set(ledger["lineage"]) == {f"g{index:06d}" for index in range(ledger["next_index"])}
    assert ledger["open"] == {}


def saved_steps(run):
    """Return the checkpoints, except those of step 0 and of the last step."""
    return [path for path in run.glob("checkpoints/step-*") if path.name not in ("step-000000", "step-000040")]
