"""A run has only one trainer. A second trainer is refused. A trainer that has lost its lease stops without writing."""

import asyncio
import json
import os
import signal

import pytest
from redis import Redis
from support.trainer.trainer_processes_support import (
    ALONE_STEPS,
    assert_same_end,
    prepare,
    recorded,
    start_trainer,
    steps_of,
    train_arguments,
)

from arlarena.proto.streams.queue import Streams


async def reached(run, step):
    async with asyncio.timeout(60):  # less than the limit of pytest-timeout, which ends the whole process
        while steps_of(run) < step:
            await asyncio.sleep(0.01)


def reason_in(log):
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    (failed,) = [line for line in lines if line["event"] == "failed"]
    return failed["reason"]


@pytest.fixture
async def two_trainers(redis_url, run_name, tmp_path, tiny_directory, make_group):
    """Yield the run's directory, a function `(which, *flags)` that starts the trainer `one` or `two`, and the
    worker that plays the tasks of the run.
    """
    run = tmp_path / "run"
    prepare(run, ALONE_STEPS, lease_ttl_s=1.0, checkpoint_every=1)

    async def start(which, *flags):
        arguments = train_arguments(run, run_name, tiny_directory, redis_url, *flags)
        return await start_trainer(arguments, run / f"log-{which}")

    async with await Streams.connect(redis_url, run_name, retry_delay_s=0.05) as streams:
        player = recorded(run, make_group)(streams)
        feeding = asyncio.create_task(player.serve())
        yield run, start, player
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def test_a_second_trainer_is_refused_and_the_first_continues(alone, two_trainers):
    run, start, _ = two_trainers
    _, first_ended = await start("one")
    await reached(run, 5)
    _, second_ended = await start("two", "--resume")
    assert await second_ended == 1
    assert "is being trained by" in reason_in(run / "log-two")
    assert await first_ended == 0
    assert_same_end(run, alone, ALONE_STEPS)


@pytest.mark.parametrize("moment", ["training", "waiting for groups"])
async def test_a_frozen_trainer_stops_after_another_took_the_run(alone, two_trainers, redis_url, run_name, moment):
    run, start, player = two_trainers
    frozen, frozen_ended = await start("one")
    await reached(run, 5)
    if moment == "waiting for groups":  # it issues its tasks again when it continues, before it checks its lease
        player.playing.clear()
        while "issued_again" not in (run / "log-one").read_text():
            await asyncio.sleep(0.01)
    os.kill(frozen, signal.SIGSTOP)
    try:
        with Redis.from_url(redis_url) as redis:
            while redis.exists(f"arl:{{{run_name}}}:trainer"):  # the lease of a frozen trainer expires
                await asyncio.sleep(0.05)
        player.playing.set()
        _, second_ended = await start("two", "--resume")
        await reached(run, 25)  # the weights of the frozen trainer's step have been removed
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert await frozen_ended == 1
    reason = reason_in(run / "log-one")  # the broker or the trainer itself notices the loss first
    assert "has taken over the run" in reason or "lost run" in reason
    assert await second_ended == 0
    assert_same_end(run, alone, ALONE_STEPS)
