"""A stream entry is acknowledged only after a durable checkpoint contains the outcome of its group."""

from types import SimpleNamespace

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from support.trainer.trainer_support import policy, tiny_directory

from arlarena.proto.streams.connection import TrainerLeaseLost
from arlarena.proto.streams.queue import Streams
from arlarena.proto.streams.trainer_lease import TrainerLease
from arlarena.proto.task_order import TaskOrder
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import PolicyVersion
from arlarena.trainer.collector import CONSUMER, Collector
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.loop import Trainer
from arlarena.trainer.metrics.recorder import StepRecorder
from arlarena.trainer.objectives import recipe
from arlarena.trainer.settings import TrainerSettings
from arlarena.trainer.state.checkpoint import Checkpoints, TrainerState
from arlarena.trainer.weights.versions import VersionStore

__all__ = ["policy", "tiny_directory"]

NOW = PolicyVersion("life", 0, "d0")
# Fields of `Trainer` that are not used when a checkpoint is saved.
UNUSED = ("versions", "probe", "publisher", "metrics", "flows", "trackers", "alarms", "progress")


@pytest.fixture
async def trainer(redis_url, run_name, tmp_path, policy, make_group):
    """Yield a trainer with one group that has an outcome, and one received group that has none."""
    settings = TrainerSettings(device="cpu", groups_per_step=1, group_size=2, minibatch_groups=1, steps=5, staleness=1)
    state, log, method = TrainerState(versions={"d0": 0}), Logger("test", "error"), recipe("grpo")
    async with await Streams.connect(redis_url, run_name) as streams:
        with TrainerLease.acquire(redis_url, run_name, "life", ttl_s=10, timeout_s=5) as lease:
            collector = Collector(streams, settings, method, state, "sokoban", TaskOrder("train", None, 7), 99, log)
            await collector.top_up()
            while task := await streams.lease(consumer="worker", block_s=0.0):
                group = make_group(task.task.group_id, [True, False], NOW)
                assert await streams.complete(task, msgspec.structs.replace(group, task=task.task.task))
            collector.settle(await collector.batch())
            yield Trainer(
                settings=settings, state=state, learner=Learner(policy, None, method, settings), collector=collector,
                lease=lease, checkpoints=Checkpoints(tmp_path / "checkpoints", 2), run=tmp_path, seed=0, log=log,
                guard=lambda: None, recorder=StepRecorder(tmp_path, settings, method, 0, log), **dict.fromkeys(UNUSED),
            )  # fmt: skip


async def pending(trainer):
    """Return the ids of the groups whose entries are not acknowledged."""
    return {entry.group_id for entry in await trainer.collector.streams.collect_pending(consumer=CONSUMER)}


async def test_a_checkpoint_acknowledges_the_settled_group_and_keeps_the_open_one(trainer):
    assert await pending(trainer) == {"g000000", "g000001"}
    await trainer.save()
    assert await pending(trainer) == {"g000001"}


async def test_nothing_is_acknowledged_if_the_checkpoint_cannot_be_written(trainer, tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="checkpoints"):
        await trainer.save()
    assert await pending(trainer) == {"g000000", "g000001"}


async def test_a_checkpoint_between_an_update_and_its_version_holds_the_updated_weights(
    trainer, tmp_path, policy, tiny_directory
):
    store = VersionStore(tmp_path / "weights", tiny_directory, "life", keep=2)
    trainer.version = store.write(policy, trainer.learner.weights(), 0)
    published = trainer.version.weights_file
    await trainer.save()
    (checkpoint,) = (tmp_path / "checkpoints").glob("*/model.safetensors")
    assert checkpoint.samefile(published)
    _, figures, _ = trainer.learn(await trainer.collector.batch(), trainer.version)
    assert figures["updates_applied"] == 1
    await trainer.save()
    (checkpoint,) = (tmp_path / "checkpoints").glob("*/model.safetensors")
    assert not checkpoint.samefile(published)
    saved, before, present = load_file(checkpoint), load_file(published), trainer.learner.weights()
    assert all(torch.equal(value, present[name]) for name, value in saved.items())
    assert not all(torch.equal(value, before[name]) for name, value in saved.items())


async def test_an_error_of_a_trainer_that_lost_its_lease_is_reported_as_the_lost_lease(
    trainer, redis_url, run_name, tmp_path
):
    others = []

    def write(*_):
        others.append(TrainerLease.acquire(redis_url, run_name, "other"))
        raise FileNotFoundError("a file that the other trainer removed")

    trainer.versions = SimpleNamespace(write=write)
    with pytest.raises(TrainerLeaseLost, match="lost run"):
        await trainer.train(resumed=False)
    others[0].release()
    assert list(tmp_path.iterdir()) == []  # the trainer wrote neither a checkpoint nor training.json
