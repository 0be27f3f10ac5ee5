"""If SIGKILL or SIGTERM ends a trainer at random points, the resumed run has the result of a run without interruption.

Weights, optimiser state, metrics and outcomes of groups are bitwise equal, for any interval of checkpoints.
"""

import signal

import pytest
from support.rollout.live_player_support import LivePlayer
from support.trainer.trainer_processes_support import (
    ALONE_STEPS,
    assert_same_end,
    prepare,
    random_ends,
    recorded,
    records,
    state_of,
    train_with_ends,
)


async def check_same_end(alone, redis_url, run_name, run, policy, make_group, every, count, signals):
    prepare(run, ALONE_STEPS, checkpoint_every=every)
    ends = random_ends(run, ALONE_STEPS, count, signals, seed=every)
    met = await train_with_ends(redis_url, run_name, run, policy, recorded(run, make_group), ends)
    assert met >= count - 1  # the run may end before the last signal
    assert_same_end(run, alone, ALONE_STEPS)
    assert {path.name for path in (run / "weights").glob("v*")} == {
        path.name for path in (alone / "weights").glob("v*")
    }


@pytest.mark.timeout(300)
async def test_a_run_killed_and_stopped_in_turn_ends_bitwise_equal(
    alone, redis_url, run_name, tmp_path, tiny_directory, make_group
):
    signals = [signal.SIGKILL, signal.SIGTERM]
    await check_same_end(alone, redis_url, run_name, tmp_path / "run", tiny_directory, make_group, 3, 4, signals)


# Slow: each of the six runs starts twenty trainers.
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("every", [1, 3, 10])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_run_ended_twenty_times_ends_bitwise_equal(
    alone, redis_url, run_name, tmp_path, tiny_directory, make_group, every, how
):
    await check_same_end(alone, redis_url, run_name, tmp_path / "run", tiny_directory, make_group, every, 20, [how])


# Slow: an asynchronous run needs many steps, so that the signals interrupt it in all states.
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("every", [1, 3, 10])
async def test_an_interrupted_asynchronous_run_settles_every_group_once(
    redis_url, run_name, tmp_path, tiny_directory, make_group, every
):
    """The run is asynchronous and has a filter. Several workers sample with the newest weights of the run's folder."""
    run, steps, staleness = tmp_path / "run", 60, 1
    prepare(run, steps, checkpoint_every=every, staleness=staleness, cold_start_steps=0)
    ends = random_ends(run, steps, 20, [signal.SIGKILL, signal.SIGTERM], seed=17 * every)

    def player(streams):
        return LivePlayer(streams, run / "weights", make_group, players=4)

    # The signals are sent at random times, and some of them only after the run has ended.
    assert await train_with_ends(redis_url, run_name, run, tiny_directory, player, ends) >= 15
    state = state_of(run, steps)
    lineage, open_groups = state["ledger"]["lineage"], state["ledger"]["open"]
    assert open_groups == {}
    assert set(lineage) == {f"g{index:06d}" for index in range(state["ledger"]["next_index"])}
    steps_done = records(run)
    assert [record["step"] for record in steps_done] == list(range(1, steps + 1))
    assert max(record["age_max"] for record in steps_done) <= staleness
    totals = steps_done[-1]
    ends_by_kind = [end for end, _ in lineage.values()]
    for kind in ("trained", "filtered", "stale", "empty", "skipped", "dead"):
        assert totals[f"total_{kind}"] == ends_by_kind.count(kind), kind
    assert totals["total_trained"] > 0
    assert totals["total_filtered"] > 0
