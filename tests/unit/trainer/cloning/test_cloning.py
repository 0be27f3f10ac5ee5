import json

import numpy as np
import pytest
import torch

from arlarena.proto.config import ConfigError
from arlarena.proto.trajectory import PolicyVersion, write_groups
from arlarena.trainer.batching.packing import TrainingSample
from arlarena.trainer.cloning.clone import (
    CloneError,
    batches,
    clone,
    demonstration_rows,
    load_demonstrations,
    negative_log_likelihood,
)
from arlarena.trainer.metrics.progress import Progress
from arlarena.trainer.model.forward import Scorer
from arlarena.trainer.settings import CloneSettings

EXPERT = PolicyVersion("expert", 0, "-")


def copying_rows(count, seed):
    """Return rows in which the response repeats a token of the prompt. The policy can learn this rule."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        token = int(generator.integers(10, 30))
        noise = generator.integers(40, 90, 3)
        prompt = np.array([3, token, *noise, 4], dtype=np.int32)
        response = np.array([token, 2], dtype=np.int32)
        rows.append(TrainingSample(prompt, response, np.zeros(2, np.float32), np.ones(2, np.uint8), ((2, 1.0),)))
    return rows


def test_cloning_learns_and_keeps_the_best_weights(policy):
    torch.set_num_threads(1)
    train, validation = copying_rows(400, 0), copying_rows(64, 1)
    before = negative_log_likelihood(Scorer(policy, 8192), validation, backward=False)
    result = clone(policy, train, validation, CloneSettings(max_epochs=40, batch_rows=50), seed=0)
    after = negative_log_likelihood(Scorer(policy, 8192), validation, backward=False)
    assert after == pytest.approx(result.validation_loss, rel=1e-5)
    assert after < 0.1 * before
    assert result.best_step <= result.steps


def test_progress_is_reported_between_validations(policy, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr("arlarena.trainer.cloning.clone._PROGRESS_EVERY_S", 0.0)
    settings = CloneSettings(max_epochs=2, batch_rows=10)
    progress = Progress(tmp_path, "clone", 6)
    result = clone(policy, copying_rows(30, 0), copying_rows(8, 1), settings, seed=0, progress=progress)
    assert result.stopped == "max_epochs"
    records = [json.loads(line) for line in (tmp_path / "progress" / "clone.jsonl").read_text().splitlines()]
    assert [(record["step"], record["message"]) for record in records] == [
        (0, ""), *((step, "epoch 1 of 2") for step in (1, 2, 3)), *((step, "epoch 2 of 2") for step in (4, 5, 6))
    ]  # fmt: skip
    assert [record["steps"] for record in records] == [6] * 7
    assert [record["step"] for record in records if "validation_loss" in record] == [6]


def test_cloning_stops_when_validation_does_not_improve(policy):
    torch.set_num_threads(1)
    train = copying_rows(40, 0)
    validation = [  # other responses than in the training rows, so the loss soon rises
        TrainingSample(row.prompt, np.array([95, 2], np.int32), row.behaviour, row.mask, row.turns)
        for row in copying_rows(40, 0)
    ]
    settings = CloneSettings(max_epochs=500, batch_rows=20, patience=2, min_validation_steps=5)
    result = clone(policy, train, validation, settings, seed=0)
    assert result.stopped == "validation"
    assert result.steps < 500 * 2
    after = negative_log_likelihood(Scorer(policy, 8192), validation, backward=False)
    assert after == pytest.approx(result.validation_loss, rel=1e-5)


def test_only_episodes_above_min_score_are_used(make_group, tmp_path):
    path = tmp_path / "demonstrations.msgpack"
    write_groups(path, [make_group("a", [True, False], EXPERT), make_group("b", [False, False], EXPERT)])
    groups = load_demonstrations(path, 0.9)
    assert [group.id for group in groups] == ["a"]
    assert len(demonstration_rows(groups)) == 2


def test_turns_without_trainable_tokens_are_left_out(make_group):
    group = make_group("a", [True, True], EXPERT)
    turn = group.trajectories[0].turns[0]
    turn.loss_mask = bytes(len(turn.loss_mask))
    assert len(demonstration_rows([group])) == sum(len(one.turns) for one in group.trajectories) - 1


def test_a_file_without_good_episodes_is_an_error(make_group, tmp_path):
    path = tmp_path / "bad.msgpack"
    write_groups(path, [make_group("a", [False], EXPERT)])
    with pytest.raises(ConfigError, match=r"none of 1 group has an episode scored above 0\.9"):
        load_demonstrations(path, 0.9)
    with pytest.raises(ConfigError, match="absent"):
        load_demonstrations(tmp_path / "absent", 0.9)


def test_an_epoch_visits_every_row_once_and_depends_on_the_seed():
    rows = copying_rows(12, 0)
    order = batches(rows, 4, seed=1)
    epoch = [id(row) for _ in range(3) for row in next(order)]
    assert sorted(epoch) == sorted(map(id, rows))
    again = batches(rows, 4, seed=1)
    assert [id(row) for _ in range(3) for row in next(again)] == epoch


def test_a_loss_that_is_not_finite_ends_cloning_with_the_step(policy):
    with torch.no_grad():
        policy.model.norm.weight[0] = float("nan")
    with pytest.raises(CloneError, match=r"loss is nan at step 1: lower \[clone\] lr"):
        clone(policy, copying_rows(40, 0), copying_rows(8, 1), CloneSettings(batch_rows=8), seed=0)


def test_a_too_large_learning_rate_ends_cloning(policy):
    with pytest.raises(CloneError, match=r"is (nan|inf) at step"):
        clone(policy, copying_rows(400, 0), copying_rows(8, 1), CloneSettings(batch_rows=8, lr=1e30), seed=0)
