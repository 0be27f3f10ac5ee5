import json

import pytest
import torch

from arlarena.trainer.checkpoint import CheckpointError, Checkpoints, TrainerState
from arlarena.trainer.learner import Learner
from arlarena.trainer.model import load_policy
from arlarena.trainer.objectives import recipe
from arlarena.trainer.settings import TrainerSettings


def learner_of(policy):
    return Learner(policy, None, recipe("grpo"), TrainerSettings(lr=1e-3, device="cpu"))


def step(learner, seed):
    torch.manual_seed(seed)
    learner.optimizer.zero_grad()
    learner.policy(input_ids=torch.randint(0, 100, (2, 8))).logits.square().mean().backward()
    learner.optimizer.step()


def save(checkpoints, state, learner):
    return checkpoints.save(state, learner.weights(), learner.optimizer_state())


@pytest.fixture
def trained(policy):
    learner = learner_of(policy)
    step(learner, 0)
    state = TrainerState(step=4, versions={"d4": 4}, seconds=1.5, environment_steps=77)
    state.ledger.issue(3)
    state.ledger.settle("g000001", "trained", 3)
    return state, learner


def test_a_resumed_run_goes_on_bitwise(trained, tmp_path, tiny_directory):
    state, learner = trained
    save(Checkpoints(tmp_path, keep=2), state, learner)
    other = learner_of(load_policy(tiny_directory))
    restored = Checkpoints(tmp_path, keep=2).load_latest(other.restore)
    assert restored == state
    for seed in (1, 2):
        step(learner, seed)
        step(other, seed)
    for mine, theirs in ((learner.weights(), other.weights()), (learner.optimizer_state(), other.optimizer_state())):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_the_newest_committed_one_counts_and_old_ones_go(trained, tmp_path):
    state, learner = trained
    checkpoints = Checkpoints(tmp_path, keep=2)
    for number in (1, 2, 3):
        state.step = number
        save(checkpoints, state, learner)
    assert [path.name for path in checkpoints.committed()] == ["step-000002", "step-000003"]
    (tmp_path / "step-000003" / "COMMITTED").unlink()  # as after a crash in the middle of a save
    restored = checkpoints.load_latest(learner.restore)
    assert restored is not None
    assert restored.step == 2


def test_none_is_not_an_error(policy, tmp_path):
    assert Checkpoints(tmp_path / "absent", keep=1).load_latest(learner_of(policy).restore) is None


def test_damage_names_the_directory(trained, tmp_path):
    state, learner = trained
    checkpoints = Checkpoints(tmp_path, keep=1)
    path = save(checkpoints, state, learner)
    (path / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="step-000004 cannot be resumed"):
        checkpoints.load_latest(learner.restore)
    (path / "state.json").write_text(json.dumps({**state.to_json(), "schema": 99}))
    with pytest.raises(CheckpointError, match="newer than this trainer"):
        checkpoints.load_latest(learner.restore)
